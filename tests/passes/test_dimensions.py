"""Names of dynamic dimensions: which are expressions, and what they come to."""

from __future__ import annotations

import pytest

from qonnx_torch.passes.dimensions import Dimensions


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("N", 7),
        ("N + 1", 8),
        ("2*N", 14),
        ("(N - 3)*M", 20),
        ("N//2", 3),
        ("-(3 - N)", 4),
        (" N*(M + 1) ", 42),
        ("N + M", 12),
    ],
)
def test_integer_expressions_are_evaluated(name: str, size: int) -> None:
    dimensions = Dimensions(["N", "M", name])
    assert dimensions.symbols == ("N", "M")
    sizes = dimensions.sizes({"N": 7, "M": 5})
    assert sizes is not None
    assert sizes[name] == size


@pytest.mark.parametrize(
    "name",
    [
        "batch-size",  # two words, neither of which is a dimension
        "floor(N/2)",
        "N/2",
        "N**2",
        "N*1.5",
        "N*True",
        "10",
        "?",
        "",
        "in",
        "N.shape + 1",
        "__import__('os')",
        "N + 1; 2",
        "(" * 99 + "N + 1" + ")" * 99,
        "N + " * 1000 + "1",
        "\0",
    ],
)
def test_all_else_is_a_symbol(name: str) -> None:
    dimensions = Dimensions(["N", name])
    assert dimensions.symbols == ("N", name)
    assert dimensions.sizes({"N": 3, name: 5}) == {"N": 3, name: 5}


@pytest.mark.parametrize("name", ["N - 7", "N - 9", "M//(N - 7)", "6//N"])
def test_sizes_are_positive(name: str) -> None:
    assert Dimensions(["N", "M", name]).sizes({"N": 7, "M": 5}) is None


@pytest.mark.parametrize(
    ("names", "sizes", "symbols"),
    [
        (["N", "N+1"], {"N": 3, "N+1": 4}, {"N": 3}),
        (["N", "N+1"], {"N": 3, "N+1": 3}, None),
        (["2*N"], {"2*N": 6}, {"N": 3}),  # the symbol itself is no dimension
        (["2*N"], {"2*N": 7}, None),
        (["N"], {"N": 0}, None),
    ],
)
def test_symbols_behind_sizes(
    names: list[str], sizes: dict[str, int], symbols: dict[str, int] | None
) -> None:
    assert Dimensions(names).assignment(sizes) == symbols
