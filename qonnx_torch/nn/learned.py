"""Operators whose attributes hold what a model has learned: here it is parameters, which train.

`onnx_attributes()` has them as the file does. What cannot train (thresholds of trees, keys of tables) is
prepared once, in buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.ops.ml.ensemble import AGGREGATES, TRANSFORMS, Ensemble, classic_ensemble, ensemble
from qonnx_torch.ops.ml.forest import Forest, Votes
from qonnx_torch.ops.ml.labels import label_encoder, look_up, one_hot_encoder, table_of_attributes
from qonnx_torch.ops.ml.linear import linear_classifier, linear_regressor
from qonnx_torch.ops.ml.scores import refuse_strings
from qonnx_torch.ops.ml.svm import svm_classifier, svm_regressor
from qonnx_torch.ops.ml.trees import (
    classify,
    named,
    regress,
    tree_ensemble,
    tree_ensemble_classifier,
    tree_ensemble_regressor,
)
from qonnx_torch.ops.standard.tfidf import Grams, count_grams, grams_of, tf_idf_vectorizer
from qonnx_torch.registry import REGISTRY

__all__ = [
    "LabelEncoder",
    "LearnedOperator",
    "LinearClassifier",
    "LinearRegressor",
    "OneHotEncoder",
    "SVMClassifier",
    "SVMRegressor",
    "TfIdfVectorizer",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
]


class LearnedOperator(nn.Module):
    """An operator with its attributes; those named in `learned` are parameters.

    Args:
        attributes: those of the operator, as its function takes them.

    Raises:
        UnsupportedModelError: an attribute has strings that torch would need tensors for.
    """

    learned: ClassVar[tuple[str, ...]] = ()
    function: ClassVar[Callable[..., Any]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            if name.endswith("_strings"):
                refuse_strings(name, value)
        self.attributes = attributes
        self.types: dict[str, int] = {}
        for name in self.learned:
            if attributes.get(name):
                self.register_parameter(name, self._parameter(name, attributes[name]))

    def _parameter(self, name: str, value: Any) -> nn.Parameter:
        operator = REGISTRY.of_target(type(self).function)
        assert operator is not None
        if operator.attribute_types[name].startswith("tuple"):  # a tensor: element type and numbers
            self.types[name] = value[0]
            return nn.Parameter(torch.tensor(value[1], dtype=torch_dtype(value[0])).reshape(-1))
        return nn.Parameter(torch.tensor(value, dtype=torch.float32))

    def learned_attributes(self) -> dict[str, Any]:
        """Returns the attributes that are parameters, as they stand now."""
        current: dict[str, Any] = {}
        for name, parameter in self.named_parameters(recurse=False):
            numbers = tuple(parameter.tolist())
            current[name] = (self.types[name], numbers) if name in self.types else numbers
        return current

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns all attributes as they stand now."""
        return self.attributes | self.learned_attributes()

    def forward(self, X: Tensor) -> Any:
        """Returns what the operator's function does."""
        return type(self).function(X, **{**self.attributes, **dict(self.named_parameters(recurse=False))})


class LinearRegressor(LearnedOperator):
    """`ops.ml.linear.linear_regressor` with its coefficients and intercepts as parameters."""

    learned = ("coefficients", "intercepts")
    function = staticmethod(linear_regressor)


class LinearClassifier(LearnedOperator):
    """`ops.ml.linear.linear_classifier` with its coefficients and intercepts as parameters."""

    learned = ("coefficients", "intercepts")
    function = staticmethod(linear_classifier)


class SVMRegressor(LearnedOperator):
    """`ops.ml.svm.svm_regressor` with its coefficients, support vectors and offset as parameters."""

    learned = ("coefficients", "rho", "support_vectors")
    function = staticmethod(svm_regressor)


class SVMClassifier(LearnedOperator):
    """`ops.ml.svm.svm_classifier` with its coefficients, support vectors and offsets as parameters."""

    learned = ("coefficients", "rho", "support_vectors")
    function = staticmethod(svm_classifier)


class OneHotEncoder(LearnedOperator):
    """`ops.ml.labels.one_hot_encoder`."""

    function = staticmethod(one_hot_encoder)


class LabelEncoder(LearnedOperator):
    """`ops.ml.labels.label_encoder` with its table in buffers."""

    function = staticmethod(label_encoder)

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, tensor in zip(("keys", "values", "defaults"), table_of_attributes(attributes), strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, X: Tensor) -> Any:
        """Returns the values of the keys that X's elements equal."""
        return look_up(X, self.get_buffer("keys"), self.get_buffer("values"), self.get_buffer("defaults"))


class TfIdfVectorizer(LearnedOperator):
    """`ops.standard.tfidf.tf_idf_vectorizer` with its n-grams in buffers and its weights as a parameter."""

    learned = ("weights",)
    function = staticmethod(tf_idf_vectorizer)

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        pool, counts = attributes.get("pool_int64s") or (), attributes["ngram_counts"]
        lengths = attributes["min_gram_length"], attributes["max_gram_length"]
        grams = grams_of(pool, counts, attributes["ngram_indexes"], *lengths)
        self.size = grams.size
        self.register_buffer("tokens", grams.tokens, persistent=False)
        for part in ("codes", "targets", "numbers"):
            for i, tensor in enumerate(getattr(grams, part)):
                self.register_buffer(f"{part}_{i}", tensor, persistent=False)

    def forward(self, X: Tensor) -> Any:
        """Returns the weighted counts of the n-grams in each row."""
        lengths = range(self.attributes["max_gram_length"])
        codes, targets, numbers = (
            tuple(self.get_buffer(f"{part}_{i}") for i in lengths) for part in ("codes", "targets", "numbers")
        )
        grams = Grams(self.get_buffer("tokens"), codes, targets, numbers, self.size)
        shortest, skips = self.attributes["min_gram_length"], self.attributes["max_skip_count"]
        weights = self._parameters.get("weights")
        return count_grams(X, grams, shortest, skips, self.attributes["mode"], weights)


class TreeOperator(LearnedOperator):
    """Trees in buffers, with the weights of their leaves and what is added to them as parameters."""

    def _hold(self, trees: Ensemble) -> None:
        """Registers the tensors of the trees."""
        self.targets, self.positive, self.depth = trees.targets, trees.positive, trees.forest.depth
        for name in Forest.tensors:
            self.register_buffer(f"tree_{name}", getattr(trees.forest, name), persistent=False)
        self.register_buffer("votes_of_leaf", trees.votes.of_leaf, persistent=False)
        self.register_buffer("votes_targets", trees.votes.targets, persistent=False)
        for name in ("weights", "base"):  # those that the file has not are held as well
            if self._learned(name) is None:
                self.register_buffer(f"no_{name}", getattr(trees, name), persistent=False)

    def _learned(self, role: str) -> Tensor | None:
        """Returns the parameter with the weights or with the base values."""
        found = (p for n, p in self.named_parameters(recurse=False) if role in n)
        return next(found, None)

    def trees(self) -> Ensemble:
        """Returns the trees as they stand now."""
        weights, base = self._learned("weights"), self._learned("base")
        return Ensemble(
            forest=Forest(**{n: self.get_buffer(f"tree_{n}") for n in Forest.tensors}, depth=self.depth),
            votes=Votes(self.get_buffer("votes_of_leaf"), self.get_buffer("votes_targets")),
            weights=self.get_buffer("no_weights") if weights is None else weights,
            base=self.get_buffer("no_base") if base is None else base,
            targets=self.targets,
            positive=self.positive,
        )


class TreeEnsembleRegressor(TreeOperator):
    """`ops.ml.trees.tree_ensemble_regressor`."""

    learned = ("target_weights", "target_weights_as_tensor", "base_values", "base_values_as_tensor")
    function = staticmethod(tree_ensemble_regressor)

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._hold(classic_ensemble(attributes, "target", attributes.get("n_targets", 1)))

    def forward(self, X: Tensor) -> Any:
        """Returns the results of the trees, (N, n_targets)."""
        how = self.attributes.get("aggregate_function", "SUM")
        return regress(self.trees(), X, how, self.attributes.get("post_transform", "NONE")).float()


class TreeEnsembleClassifier(TreeOperator):
    """`ops.ml.trees.tree_ensemble_classifier`."""

    learned = ("class_weights", "class_weights_as_tensor", "base_values", "base_values_as_tensor")
    function = staticmethod(tree_ensemble_classifier)

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.labels = tuple(attributes.get("classlabels_int64s") or ())
        self.voted = frozenset(attributes.get("class_ids") or ())
        self._hold(classic_ensemble(attributes, "class", len(self.labels)))

    def forward(self, X: Tensor) -> Any:
        """Returns labels (N,) and scores (N, classes)."""
        transform = self.attributes.get("post_transform", "NONE")
        return classify(self.trees(), X, self.labels, self.voted, transform)


class TreeEnsemble(TreeOperator):
    """`ops.ml.trees.tree_ensemble`."""

    learned = ("leaf_weights",)
    function = staticmethod(tree_ensemble)

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.how = named(attributes.get("aggregate_function", 1), AGGREGATES)
        self.transform = named(attributes.get("post_transform", 0), TRANSFORMS)
        self._hold(ensemble(attributes, attributes.get("n_targets", 1)))

    def forward(self, X: Tensor) -> Any:
        """Returns the results of the trees, (N, n_targets)."""
        return regress(self.trees(), X, self.how, self.transform).to(X.dtype)


for _module in (
    LabelEncoder,
    LinearClassifier,
    LinearRegressor,
    OneHotEncoder,
    SVMClassifier,
    SVMRegressor,
    TfIdfVectorizer,
    TreeEnsemble,
    TreeEnsembleClassifier,
    TreeEnsembleRegressor,
):
    REGISTRY.add_module(_module.function, _module)
