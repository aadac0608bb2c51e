"""Checks by name which operations a plan may hold.

`tests/tff/test_graphs.py` checks whole graphs, with TensorFlow.
"""

import pytest

from muster.runtime.ops import allowed_ops, denial_reason, refusal_reason


def words(text):
    return text.split()


FILES = words(
    """
    ReadFile WriteFile MatchingFiles MatchingFilesDataset ExperimentalMatchingFilesDataset TextLineDataset
    TFRecordDataset TFRecordDatasetV2 FixedLengthRecordDataset FixedLengthRecordDatasetV2 CSVDataset CSVDatasetV2
    SqlDataset ExperimentalSqlDataset LMDBDataset WholeFileReader WholeFileReaderV2 TextLineReaderV2
    TFRecordReaderV2 FixedLengthRecordReader LMDBReader ReaderReadV2 RecordInput Save SaveV2 SaveSlices Restore
    RestoreV2 RestoreSlice MergeV2Checkpoints SaveDataset SaveDatasetV2 LoadDataset DistributedSave SnapshotDataset
    SnapshotDatasetV2 SnapshotDatasetReader SnapshotChunkDataset SnapshotNestedDatasetReader DatasetToTFRecord
    InitializeTableFromTextFile InitializeTableFromTextFileV2 GenerateVocabRemapping LoadAndRemapMatrix
    CreateSummaryFileWriter CreateSummaryDbWriter WriteSummary WriteScalarSummary WriteRawProtoSummary
    FlushSummaryWriter CloseSummaryWriter ImportEvent SummaryWriter DebugIdentity DebugIdentityV2 DebugIdentityV3
    DebugNanCount DebugNumericSummary FileSystemSetConfiguration InitializeTRTResource SerializeTRTResource Skipgram
    ImmutableConst
    """
)
NETWORK = words(
    """
    Send Recv _Send _Recv _HostSend _HostRecv CollectiveReduce CollectiveReduceV2 CollectiveGather
    CollectiveBcastSendV2 CollectiveInitializeCommunicator NcclAllReduce _NcclReduceSend RpcCall RpcClient RpcServer
    RpcServerStart DeleteRpcFutureResource RemoteCall DataServiceDataset DataServiceDatasetV4 RegisterDataset
    RegisterDatasetV2 XlaSendToHost XlaRecvFromHost _XlaRecvAtHost TPUExecute ConfigureDistributedTPU InfeedEnqueue
    OutfeedDequeue DTensorRestoreV2 WorkerHeartbeat
    """
)
HOST = words(
    "PyFunc PyFuncStateless EagerPyFunc XlaCallModule XlaCustomCall XlaCustomCallV2 DatasetFromGraph "
    "MlirPassthroughOp Abort"
)
ALLOWED = words(
    """
    AddV2 MatMul Conv2D ReadVariableOp VarHandleOp AssignVariableOp Snapshot Identity While If PartitionedCall
    StatefulPartitionedCall ReduceDataset MapDataset BatchDatasetV2 GeneratorDataset TensorSliceDataset
    ShuffleDatasetV3 ParallelMapDatasetV2 HashTableV2 LookupTableFindV2 LookupTableImportV2 InitializeTableV2
    MutableDenseHashTableV2 RandomStandardNormal StatelessRandomNormalV2 NonDeterministicInts Timestamp Assert
    DecodeJpeg DecodeCSV ParseExampleV2 ParseTensor SerializeTensor ScalarSummary MergeSummary TensorSummaryV2
    DebugGradientIdentity TensorArrayReadV3 TensorArrayWriteV3 IteratorV2 Stage Unstage RaggedGather FFTND
    GlobalShuffleDataset
    """
)


@pytest.mark.parametrize("op", FILES)
def test_file_operations_are_denied(op):
    assert denial_reason(op) == "reads or writes files"


@pytest.mark.parametrize("op", NETWORK)
def test_network_operations_are_denied(op):
    assert denial_reason(op) == "talks to the network or to other devices"


@pytest.mark.parametrize("op", HOST)
def test_operations_on_code_or_the_process_are_denied(op):
    assert denial_reason(op)


@pytest.mark.parametrize("op", ALLOWED)
def test_computing_operations_are_allowed(op):
    assert refusal_reason(op) is None


@pytest.mark.parametrize("op", ["XlaDotV2", "BoostedTreesPredict", "_FusedMatMul", "SomeCustomOp", ""])
def test_unknown_operations_are_refused(op):
    assert denial_reason(op) is None
    assert "not known to be harmless" in refusal_reason(op)


def test_every_allowed_operation_has_a_kind():
    assert len(allowed_ops()) > 1000
    assert all(allowed_ops().values())
