"""Counts of n-grams against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops.standard.tfidf import tf_idf_vectorizer

POOL: dict[str, Any] = {
    "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 5, 6, 7],  # 4 of one, 3 of two, 1 of three
    "ngram_counts": [0, 4, 10],
    "ngram_indexes": [3, 0, 2, 1, 6, 5, 4, 7],
}
X = np.array([[5, 6, 2, 7, 8, 6, 7], [2, 2, 2, 9, 5, 6, 7], [1, 1, 1, 1, 1, 1, 1]])
WEIGHTS = [0.5, -1.0, 2.0, 3.0, 1.5, 0.25, 4.0, 8.0]


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 1, 3])
@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (2, 2), (1, 3), (3, 3)])
def test_counts(mode: str, skips: int, shortest: int, longest: int, check_node) -> None:
    for x in (X, X.astype(np.int32), X[0], X[:, :2]):
        for weights in ({}, {"weights": WEIGHTS}):
            check_node("TfIdfVectorizer", x, opset=9, source="onnxruntime", tolerance=1e-6, mode=mode,
                       max_skip_count=skips, min_gram_length=shortest, max_gram_length=longest,
                       **POOL, **weights)  # fmt: skip


def test_errors() -> None:
    given = {"max_gram_length": 1, "min_gram_length": 1, "max_skip_count": 0, "ngram_counts": (0,)}
    with pytest.raises(InvalidModelError, match="mode 'COUNT' is none of TF, IDF, TFIDF"):
        tf_idf_vectorizer(torch.zeros(2), mode="COUNT", ngram_indexes=(0,), pool_int64s=(1,), **given)
    with pytest.raises(InvalidModelError, match=r"more n-grams than ngram_indexes \(1\)"):
        tf_idf_vectorizer(torch.zeros(2), mode="TF", ngram_indexes=(0,), pool_int64s=(1, 2), **given)
    with pytest.raises(UnsupportedModelError, match="pool_strings has strings"):
        tf_idf_vectorizer(torch.zeros(2), mode="TF", ngram_indexes=(0,), pool_strings=("a",), **given)
