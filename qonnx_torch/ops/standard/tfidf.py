"""Counts of n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.ml.scores import refuse_strings

__all__ = ["Grams", "count_grams", "grams_of", "tf_idf_vectorizer"]


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-grams of a pool as a tree of prefixes, one table for each length.

    Attributes:
        tokens: (tokens,), sorted.
        codes: for each length the prefixes, sorted, each as parent * (tokens + 1) + last token.
        targets: for each length the output that a prefix counts for; the number of outputs for none.
        numbers: for each length the n-gram of the pool that a prefix is; the number of n-grams for none.
        size: number of outputs.
    """

    tokens: Tensor
    codes: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    numbers: tuple[Tensor, ...]
    size: int


@operator("TfIdfVectorizer", since_version=9)
def tf_idf_vectorizer(
    X: Tensor,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: Sequence[int],
    ngram_indexes: Sequence[int],
    pool_int64s: Sequence[int] | None = None,
    pool_strings: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Returns how often each n-gram of a pool occurs in each row, as float32.

    Args:
        X: (C,) or (N, C), integers.
        max_gram_length: length of the longest n-grams that count.
        max_skip_count: elements between those of an n-gram: each number up to this counts.
        min_gram_length: length of the shortest n-grams that count.
        mode: TF, the counts; IDF, weights where an n-gram occurs; TFIDF, counts times weights.
        ngram_counts: where in the pool the 1-grams, 2-grams, ... begin.
        ngram_indexes: output of each n-gram of the pool.
        pool_int64s: the n-grams.
        pool_strings: not supported.
        weights: one for each n-gram of the pool; 1 where absent.

    Returns: (outputs,) or (N, outputs), with max(ngram_indexes) + 1 outputs.

    Raises:
        InvalidModelError: an unknown mode, or a pool that does not fit the indexes.
        UnsupportedModelError: strings.

    Source: ONNX TfIdfVectorizer-9.
    """
    refuse_strings("pool_strings", pool_strings)
    grams = grams_of(pool_int64s or (), ngram_counts, ngram_indexes, min_gram_length, max_gram_length)
    factors = torch.tensor(weights, device=X.device) if weights else None
    return count_grams(X, grams, min_gram_length, max_skip_count, mode, factors)


def grams_of(
    pool: Sequence[int], counts: Sequence[int], indexes: Sequence[int], shortest: int, longest: int
) -> Grams:
    """Returns the n-grams of a pool. Raises InvalidModelError where the indexes do not fit it."""
    if not 1 <= shortest <= longest <= len(counts):
        raise InvalidModelError(
            f"n-grams of {shortest} to {longest} are asked for, ngram_counts has {len(counts)} lengths"
        )
    size, count = max(indexes, default=-1) + 1, len(indexes)
    numbered: list[dict[tuple[int, ...], int]] = [{} for _ in range(longest)]
    number = 0
    for length, (start, stop) in enumerate(pairwise((*counts, len(pool))), start=1):
        for place in range(start, stop - length + 1, length):
            if number >= count:
                raise InvalidModelError(f"the pool has more n-grams than ngram_indexes ({count})")
            if shortest <= length <= longest:
                gram = tuple(pool[place : place + length])
                for part in range(1, length):
                    numbered[part - 1].setdefault(gram[:part], count)
                numbered[length - 1][gram] = number
            number += 1
    tokens = sorted({token for own in numbered for gram in own for token in gram})
    rank = {token: i for i, token in enumerate(tokens)}
    places: dict[tuple[int, ...], int] = {(): 0}
    codes, numbers = [], []
    for own in numbered:
        coded = sorted((places[gram[:-1]] * (len(tokens) + 1) + rank[gram[-1]], gram) for gram in own)
        places.update({gram: i for i, (_, gram) in enumerate(coded)})
        codes.append(torch.tensor([code for code, _ in coded], dtype=torch.int64))
        numbers.append(torch.tensor([*(own[gram] for _, gram in coded), count], dtype=torch.int64))
    outputs = torch.tensor([*indexes, size], dtype=torch.int64)
    targets = tuple(outputs[own] for own in numbers)
    return Grams(torch.tensor(tokens, dtype=torch.int64), tuple(codes), targets, tuple(numbers), size)


def count_grams(
    X: Tensor, grams: Grams, shortest: int, skips: int, mode: str, weights: Tensor | None
) -> Tensor:
    """Returns the weighted counts of the n-grams in each row."""
    if mode not in ("TF", "IDF", "TFIDF"):
        raise InvalidModelError(f"mode {mode!r} is none of TF, IDF, TFIDF")
    x = (X.unsqueeze(0) if X.dim() == 1 else X).to(torch.int64)
    found = _occurrences(x, grams, shortest, skips)
    result = torch.zeros((x.shape[0], grams.size + 1), device=x.device)
    if mode == "TF" or weights is None:
        for targets, _ in found:
            result = result.scatter_add(1, targets, torch.ones_like(targets, dtype=result.dtype))
        result = result.clamp(max=1) if mode == "IDF" else result
    else:
        factors = torch.cat((weights, weights.new_zeros(1)))
        for targets, numbers in found:
            if mode == "IDF":
                result = result.scatter(1, targets, factors[numbers])
            else:
                result = result.scatter_add(1, targets, factors[numbers])
    result = result[:, : grams.size]
    return result.squeeze(0) if X.dim() == 1 else result


def _occurrences(x: Tensor, grams: Grams, shortest: int, skips: int) -> list[tuple[Tensor, Tensor]]:
    """Returns for each length and distance the output and the number of the n-gram at each place."""
    unknown = len(grams.tokens)
    tokens = _find(grams.tokens, x)
    found = []
    for step in range(1, skips + 2):
        node = torch.zeros_like(tokens)
        for i, codes in enumerate(grams.codes):
            width = x.shape[1] - i * step
            if width <= 0:
                break
            last, parent = tokens[:, i * step :], node[:, :width]
            lost = (last == unknown) | ((parent == len(grams.codes[i - 1])) if i else False)
            node = _find(codes, torch.where(lost, -1, parent * (unknown + 1) + last))
            if i + 1 >= shortest and (i or step == 1):  # 1-grams have nothing to skip
                found.append((grams.targets[i].to(x.device)[node], grams.numbers[i].to(x.device)[node]))
    return found


def _find(known: Tensor, values: Tensor) -> Tensor:
    """Returns the places of values among sorted known ones; len(known) where they are not."""
    known = known.to(values.device)
    if not len(known):
        return torch.zeros_like(values)
    place = torch.searchsorted(known, values.contiguous())
    found = known[place.clamp(max=len(known) - 1)] == values
    return torch.where(found, place, len(known))
