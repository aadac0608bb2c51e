"""Maps refused operations to the calls that create them, with a replacement for each."""

from __future__ import annotations

import re

# Patterns of operation names, the call that creates such operations, and the replacement.
_CALLS = (
    (r"Print(V2)?", "tf.print", "leave it out, or return the value in the result"),
    (
        r"(Eager)?PyFunc(Stateless)?",
        "tf.py_function, tf.numpy_function or Dataset.from_generator",
        "write the step with TensorFlow operations, or do it before the data reaches the plan",
    ),
    (r"CacheDataset(V2)?", "Dataset.cache with a file name", "call Dataset.cache() without one"),
    (
        r"RewriteDataset|OptimizeDataset(V\d+)?",
        "an option of tf.data",
        "only Dataset.enumerate and Dataset.choose_from_datasets may rewrite a data set",
    ),
    (
        r"(Experimental)?IgnoreErrorsDataset",
        "Dataset.ignore_errors(log_warning=True)",
        "call Dataset.ignore_errors() without log_warning",
    ),
    (r"(Save|Load)Dataset(V\d+)?", "Dataset.save or Dataset.load", "take the elements as client data"),
    (r"Snapshot(Chunk)?Dataset(V\d+|Reader)?", "Dataset.snapshot", "call Dataset.cache() without a file name"),
    (r"(Experimental)?MatchingFiles(Dataset)?", "Dataset.list_files", "take the files' contents as client data"),
    (
        r"(Experimental)?(TextLine|FixedLengthRecord|TFRecord|CSV|Sql|LMDB)Dataset(V\d+)?",
        "a tf.data class that reads files",
        "take the elements as client data",
    ),
    (
        r"InitializeTableFromTextFile(V\d+)?",
        "tf.lookup.TextFileInitializer",
        "use tf.lookup.KeyValueTensorInitializer, which puts the table into the graph",
    ),
    (
        r"Save(Slices|V\d+)?|Restore(Slice|V\d+)?|ShardedFilename",
        "tf.train.Checkpoint",
        "leave it out: Muster stores the state",
    ),
    (
        r"(Create|Flush|Close)?Summary(File|Db)?Writer|Write\w*Summary",
        "tf.summary",
        "return the values in the result",
    ),
    (r"(Register|DataService)\w+", "tf.data.experimental.service", "take the elements as client data"),
    (
        r"(Experimental)?AutoShardDataset|Collective\w+|_?Nccl\w+",
        "tf.distribute",
        "leave it out: clients are the distribution",
    ),
    (r"(Consume)?Mutex\w*", "tf.CriticalSection", "leave it out: a stage runs once at a time"),
    (r"BatchFunction|Batch|Unbatch", "tf.nondifferentiable_batch_function", "use Dataset.batch"),
    (r"XlaCallModule", "jax2tf.convert", "write the computation with TensorFlow operations"),
    (r"GetElementAtIndex", "tf.data.experimental.at", "use Dataset.skip(n).take(1)"),
    (r"(Experimental)?(Latency|BytesProduced)\w*Stats\w*", "tf.data.experimental.latency_stats", "leave it out"),
    (
        r"Iterator(From|To)StringHandle\w*",
        "Iterator.string_handle",
        "iterate over the data set itself, or use Dataset.reduce",
    ),
)


def replacement_hint(op: str) -> str:
    """Returns the call that creates an operation and its replacement; empty if unknown.

    The text is a suffix for a message.
    """
    for pattern, call, instead in _CALLS:
        if re.fullmatch(pattern, op):
            return f"; {call} creates it: {instead}"
    return ""
