"""ONNX's own node tests: how many pass, and that docs/onnx.md says so."""

import pytest

import onnx_nodes


@pytest.fixture(scope="module")
def results():
    return onnx_nodes.results()


def test_most_in_floating_point_pass(results):
    floats = [outcome for _, is_float, outcome in results.values() if is_float]
    assert len(floats) > 1000
    assert sum(o == "passed" for o in floats) >= 0.7 * len(floats)


def test_what_is_imported_is_right(results):
    """Wrong values are those of random numbers alone; what PyTorch has no
    kernel for ends with an error of its own."""
    wrong = {name: outcome.split(":")[0] for name, (op, _, outcome) in results.items()
             if outcome != "passed"
             and not outcome.startswith("refused")
             and "not implemented for" not in outcome
             and not any(word in name for word in onnx_nodes.RANDOM)}
    assert wrong == onnx_nodes.KNOWN


def test_nothing_crashes(results):
    assert not [name for name, (_, _, outcome) in results.items()
                if outcome.startswith("failed")]


def test_the_documentation_is_current(results):
    text, begin, end = onnx_nodes.section()
    assert text[begin:end] == onnx_nodes.summary(results)
