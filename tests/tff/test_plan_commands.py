"""Checks the output and exit codes of `muster plan build`, `plan check` and `simulate`, and initial
states.
"""

import json
import textwrap

import pytest
from typer.testing import CliRunner

from muster.cli.app import app
from muster.wire.plan import Plan

FILE = textwrap.dedent("""
    import collections
    import numpy as np

    def _local(draws):
        import tensorflow as tf, tensorflow_federated as tff
        @tff.tensorflow.computation(tff.SequenceType(np.float32))
        def local(values):
            total = values.reduce(np.float32(0), lambda held, value: held + value)
            with tf.name_scope("speckle"):
                noise = tf.random.normal([]) if draws else 0.0
            return collections.OrderedDict(total=total, noisy=total + noise)
        return local

    def _sums(draws):
        import tensorflow_federated as tff
        local = _local(draws)
        @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.float32), tff.CLIENTS))
        def sums(values):
            return tff.federated_sum(tff.federated_map(local, values))
        return sums

    def exact():
        return _sums(False)

    def random():
        return _sums(True)

    def secure():
        import tensorflow_federated as tff
        @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
        def total(values):
            return tff.federated_secure_sum(values, 10)
        return total

    def counter():
        import tensorflow as tf, tensorflow_federated as tff
        @tff.tensorflow.computation(np.int32, np.float32)
        def more(count, total):
            return count + tf.cast(total, tf.int32)
        @tff.federated_computation(tff.FederatedType(np.int32, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS))
        def count(state, values):
            total = tff.federated_sum(values)
            return tff.federated_map(more, (state, total)), total
        return count

    def clock():
        import tensorflow as tf, tensorflow_federated as tff
        @tff.tensorflow.computation(np.float32)
        def late(value):
            return value + tf.cast(tf.timestamp(), tf.float32)
        @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
        def times(values):
            return tff.federated_sum(tff.federated_map(late, values))
        return times

    def five():
        return np.int32(5)

    def clients():
        return [[np.float32(1), np.float32(2)], [np.float32(4)]]

    def canceling():
        return [[np.float32(value)] for value in (1e8, 1, 1, 1, -1e8, 1, 1)]

    def numbers():
        return [np.float32(1), np.float32(2)]

    def integers(number=3):
        return [1, 2]

    def hospital():
        return [np.float32(1), np.float32(2)]
""")


@pytest.fixture
def muster(tmp_path, monkeypatch):
    """Runs a command in a folder with the computations; `mine:` stands for their file."""
    (tmp_path / "mine_of_plan_commands.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(app, [item.replace("mine:", "mine_of_plan_commands.py:") for item in arguments])

    return run


@pytest.fixture
def check(muster):
    """Runs `plan check` for one round."""

    def run(computation, data, *options):
        return muster("plan", "check", f"mine:{computation}", "--data", f"mine:{data}", "--rounds", "1", *options)

    return run


@pytest.mark.parametrize(
    ("arguments", "exit_code", "texts"),
    [
        (["exact", "clients"], 0, ["Same: at most 0.0e+00 (tolerance 1e-05)"]),
        (
            ["random", "clients"],
            4,
            [
                "Same except for random draws: at most 0.0e+00 with the draws fixed on both sides",
                "RandomStandardNormal in work (speckle): may change result noisy",
            ],
        ),
        (["clock", "numbers"], 4, ["Timestamp in work, which reads the clock: may change result"]),
        # The values of `canceling` add up to 2 one after another, but to 1 in chunks of three.
        (["exact", "canceling"], 1, ["Different: up to 5.0e-01 (tolerance 1e-05)"]),
        (["exact", "canceling", "--tolerance", "0.6"], 0, []),
    ],
    ids=["exact", "random", "clock", "order-dependent sum", "tolerance"],
)
def test_check_prints_its_verdict_and_sets_the_exit_code(check, arguments, exit_code, texts):
    done = check(*arguments)
    assert done.exit_code == exit_code
    for text in texts:
        assert text in done.stdout


def test_check_writes_its_verdict_as_json(check):
    document = json.loads(check("random", "clients", "--json").stdout)
    assert (document["verdict"], document["same"], document["not_compared"]) == ("same_but_random", False, [])
    assert [(source["stage"], source["operations"], source["result"]) for source in document["random"]] == [
        ("work", ["RandomStandardNormal"], ["noisy"])
    ]


def test_refusal_of_secure_sums_names_the_command_line_option(muster):
    refused = muster("plan", "build", "mine:secure", "-o", "x.plan")
    assert refused.exit_code == 1
    assert "pass --allow-clear-secure-sums to sum them in the clear" in refused.stderr
    assert "allow_clear_secure_sums" not in refused.stderr
    assert muster("plan", "build", "mine:secure", "-o", "x.plan", "--allow-clear-secure-sums").exit_code == 0
    checked = muster("plan", "check", "mine:secure", "--data", "mine:integers")
    assert "pass --allow-clear-secure-sums" in checked.stderr


def test_stateful_computation_needs_an_initial_state(muster):
    refused = muster("plan", "build", "mine:counter", "-o", "x.plan")
    assert refused.exit_code == 1
    assert "on the command line --initial-state" in refused.stderr
    assert "tff.templates.IterativeProcess" in refused.stderr
    assert muster("plan", "build", "mine:counter", "-o", "x.plan", "--initial-state", "mine:five").exit_code == 0
    assert int(Plan.load("x.plan").initial_state()["state"]) == 5
    checked = muster("plan", "check", "mine:counter", "--data", "mine:numbers", "--initial-state", "mine:five")
    assert checked.exit_code == 0, checked.stderr


def test_folder_of_a_run_is_an_initial_state(muster):
    muster("plan", "build", "mine:counter", "-o", "first.plan", "--initial-state", "mine:five")
    assert muster("simulate", "first.plan", "--data", "mine:numbers", "--rounds", "2", "--out", "run").exit_code == 0
    done = muster("plan", "build", "mine:counter", "-o", "second.plan", "--initial-state", "run")
    assert done.exit_code == 0, done.stderr
    assert int(Plan.load("second.plan").initial_state()["state"]) == 5 + 2 * 3
    file = muster("plan", "build", "mine:counter", "-o", "x.plan", "--initial-state", "run/checkpoints/1.safetensors")
    assert file.exit_code == 0
    assert int(Plan.load("x.plan").initial_state()["state"]) == 5 + 3


def test_missing_initial_state_is_a_usage_error(muster):
    done = muster("plan", "build", "mine:counter", "-o", "x.plan", "--initial-state", "nowhere")
    assert done.exit_code == 2
    assert "there is no file nowhere" in done.stderr.replace("\n│", "").replace("  ", " ")


def test_simulate_names_unseedable_operations(muster):
    muster("plan", "build", "mine:clock", "-o", "x.plan")
    done = muster("simulate", "x.plan", "--data", "mine:numbers", "--rounds", "1")
    assert done.exit_code == 0
    assert "Note: Timestamp in work reads the clock or the system's entropy, which no seed reaches" in done.stderr


def test_simulate_hints_that_data_is_of_one_client(muster):
    muster("plan", "build", "mine:exact", "-o", "x.plan")
    done = muster("simulate", "x.plan", "--data", "mine:hospital", "--rounds", "1")
    assert done.exit_code == 1
    assert (
        "The data is that of one client, where a list of clients' data is needed: put it into a list, [data]"
        in done.stderr
    )
    assert "a single batch goes into a list" not in done.stderr


def test_default_argument_causes_a_one_line_warning(muster):
    muster("plan", "build", "mine:secure", "-o", "x.plan", "--allow-clear-secure-sums")
    done = muster("simulate", "x.plan", "--data", "mine:integers", "--rounds", "1")
    (line,) = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert line == (
        "Warning: integers of the clients' data is called once, without its argument number, which has a "
        "default. To get the data "
        "for each round, with the round's number, take the default away"
    )
