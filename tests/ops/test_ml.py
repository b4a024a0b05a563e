"""Operators of ai.onnx.ml that are no trees, against onnxruntime; where it errs, against the formula."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops.ml.features import imputer, normalizer
from qonnx_torch.ops.ml.labels import label_encoder, one_hot_encoder
from qonnx_torch.ops.ml.linear import linear_classifier, linear_regressor
from qonnx_torch.ops.ml.svm import svm_classifier, svm_regressor

F32 = np.float32
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]
DTYPES = [np.float32, np.float64, np.int64, np.int32]


@pytest.fixture
def check(check_node):
    return partial(check_node, domain="ai.onnx.ml", source="onnxruntime", tolerance=1e-5)


def numbers(*shape: int, seed: int = 0, dtype: Any = F32) -> np.ndarray:
    return (3 * np.random.default_rng([seed, *shape]).normal(size=shape)).astype(dtype)


def floats(*shape: int, seed: int = 0) -> list[float]:
    return [float(v) for v in numbers(*shape, seed=seed).ravel()]


X = numbers(5, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_features(dtype: Any, check) -> None:
    x = numbers(5, 3, dtype=dtype)
    for shape in ((4,), (1, 2)):
        check("ArrayFeatureExtractor", x, np.arange(np.prod(shape)).reshape(shape) % 3)
    check("ArrayFeatureExtractor", x[0], np.array([2, 0]))
    check("Scaler", x, offset=floats(3), scale=floats(3, seed=1))
    check("Scaler", x, offset=[0.5], scale=[2.0])
    check("FeatureVectorizer", x, x[:, :2], inputdimensions=[3, 2])
    for norm in ("MAX", "L1", "L2"):
        check("Normalizer", np.concatenate((x, 0 * x[:1])), norm=norm)
        check("Normalizer", x[0], norm=norm)
    if dtype in (np.float32, np.float64):
        check("Binarizer", x.astype(F32), threshold=0.3)


@pytest.mark.parametrize("features", [1, 3])
def test_imputer(features: int, check) -> None:
    for missing in (0.0, -1.0, np.nan):
        x = np.where(X > 0, F32(missing), X)
        check("Imputer", x, imputed_value_floats=floats(features), replaced_value_float=missing)
    check("Imputer", X.astype(np.int64), imputed_value_int64s=[7, 8, 9][:features], replaced_value_int64=1)
    with pytest.raises(InvalidModelError, match="needs imputed_value_floats or"):
        imputer(torch.zeros(1))


def test_gradient_of_a_norm_of_zero() -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    for norm in ("MAX", "L1", "L2"):
        (gradient,) = torch.autograd.grad(normalizer(x, norm=norm).sum(), x)
        assert gradient.isfinite().all()
    with pytest.raises(InvalidModelError, match="norm 'L3' is not MAX, L1 or L2"):
        normalizer(x, norm="L3")


def test_label_encoder(check) -> None:
    x = np.array([[1, 5, -2], [7, 1, 0]])
    check("LabelEncoder", x, keys_int64s=[1, -2, 5], values_int64s=[10, 20, 30], default_int64=-7)
    check("LabelEncoder", x, keys_int64s=[1, -2, 5], values_floats=[0.5, 1.5, 2.5], default_float=9.0)
    check("LabelEncoder", x.astype(F32), keys_floats=[5.0, 1.0], values_int64s=[3, 4])
    check("LabelEncoder", x.astype(F32), keys_floats=[5.0, 1.0], values_floats=[3.0, 4.0])


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int16, np.float32])
def test_label_encoder_of_tensors(dtype: Any, check) -> None:
    x = np.array([[1, 5, -2], [7, 1, 0]], dtype)
    keys, values = np.array([5, 1, 0], dtype), np.array([2, 3, 4], dtype)
    if np.dtype(dtype).kind == "f":
        keys[2] = x[0, 0] = np.nan
    tensors = {"keys_tensor": keys, "values_tensor": values, "default_tensor": np.array([-9], dtype)}
    known = {} if dtype is not np.int16 else {"source": "reference"}
    check("LabelEncoder", x, **{k: numpy_helper.from_array(v, k) for k, v in tensors.items()}, **known)


def test_label_encoder_takes_the_last_of_equal_keys() -> None:
    y = label_encoder(torch.tensor([1, 2]), keys_int64s=(1, 2, 1), values_int64s=(3, 4, 5))
    assert y.tolist() == [5, 4]
    with pytest.raises(InvalidModelError, match="2 keys and 1 values"):
        label_encoder(torch.tensor([1]), keys_int64s=(1, 2), values_int64s=(3,))
    with pytest.raises(InvalidModelError, match="needs one of values_int64s"):
        label_encoder(torch.tensor([1]), keys_int64s=(1, 2))
    with pytest.raises(UnsupportedModelError, match="keys_strings has strings"):
        label_encoder(torch.tensor([1]), keys_strings=("a",), values_int64s=(3,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_hot_encoder(dtype: Any, check) -> None:
    x = np.array([[1, 5, -2], [7, 1, 0]], dtype)
    if dtype is not np.int32:
        check("OneHotEncoder", x, cats_int64s=[5, -2, 1])
        check("OneHotEncoder", x[0], cats_int64s=[5, -2, 1], zeros=0)
    with pytest.raises(RuntimeError, match="an element is of no category"):
        one_hot_encoder(torch.from_numpy(x), cats_int64s=(5, 1), zeros=0)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_linear_models(transform: str, check) -> None:
    for targets in (2, 3):
        check("LinearRegressor", X, coefficients=floats(targets, 3), intercepts=floats(targets),
              targets=targets, post_transform=transform)  # fmt: skip
        check("LinearClassifier", X, outputs=2, coefficients=floats(targets, 3), intercepts=floats(targets),
              classlabels_ints=[7, 5, 6][:targets], post_transform=transform)  # fmt: skip
    check("LinearRegressor", X, coefficients=floats(3))
    check("LinearRegressor", X[0], coefficients=floats(3), intercepts=[0.5])


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_classifier_of_other_dtypes(dtype: Any, check) -> None:
    check("LinearClassifier", numbers(5, 3, dtype=dtype), outputs=2, coefficients=floats(2, 3),
          intercepts=floats(2), classlabels_ints=[1, 2])  # fmt: skip


def test_linear_classifier_with_one_score(check) -> None:
    for transform in ("NONE", "LOGISTIC"):
        check("LinearClassifier", X, outputs=2, coefficients=floats(3), intercepts=[0.1],
              classlabels_ints=[3, 8], post_transform=transform)  # fmt: skip
    labels, scores = linear_classifier(
        torch.tensor([[2.0], [-1.0]]), coefficients=(1.0,), classlabels_ints=(3, 8), post_transform="SOFTMAX"
    )
    assert labels.tolist() == [8, 3]
    torch.testing.assert_close(scores, torch.softmax(torch.tensor([[-2.0, 2.0], [1.0, -1.0]]), -1))


def test_a_transform_of_one_target() -> None:
    """onnxruntime leaves it out."""
    y = linear_regressor(torch.tensor([[2.0]]), coefficients=(1.0,), post_transform="LOGISTIC")
    torch.testing.assert_close(y, torch.sigmoid(torch.tensor([[2.0]])))
    y = linear_regressor(torch.tensor([[0.7]]), coefficients=(1.0,), post_transform="PROBIT")
    torch.testing.assert_close(y, torch.tensor([[0.5244]]), atol=2e-3, rtol=0)
    with pytest.raises(InvalidModelError, match="post_transform 'CUBE' is none of"):
        linear_regressor(torch.tensor([[2.0]]), coefficients=(1.0,), post_transform="CUBE")


KERNELS = ["LINEAR", "POLY", "RBF", "SIGMOID"]
KERNEL_PARAMS = [0.25, 0.5, 2.0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_svm_regressor(kernel: str, one_class: int, check) -> None:
    check("SVMRegressor", X / 3, coefficients=floats(4), kernel_type=kernel, kernel_params=KERNEL_PARAMS,
          n_supports=4, one_class=one_class, rho=[0.2], support_vectors=floats(4, 3))  # fmt: skip
    check("SVMRegressor", X, coefficients=floats(3), n_supports=0, rho=[0.2], one_class=one_class,
          kernel_params=KERNEL_PARAMS)  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("counts", [(1, 2), (2, 1, 3), (1, 1, 2, 2)])
@pytest.mark.parametrize("probable", [False, True])
def test_svm_classifier(kernel: str, counts: tuple[int, ...], probable: bool, check) -> None:
    classes, vectors = len(counts), sum(counts)
    pairs = classes * (classes - 1) // 2
    given = {"prob_a": [-1.0 - i / 4 for i in range(pairs)], "prob_b": floats(pairs)} if probable else {}
    check("SVMClassifier", X / 3, outputs=2, classlabels_ints=[4, 9, 2, 7][:classes],
          coefficients=floats(classes - 1, vectors), kernel_type=kernel, kernel_params=KERNEL_PARAMS,
          rho=floats(pairs, seed=2), support_vectors=floats(vectors, 3), vectors_per_class=list(counts),
          **given)  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_linear_svm_classifier(transform: str, check) -> None:
    check("SVMClassifier", X, outputs=2, classlabels_ints=[4, 9, 2], coefficients=floats(3, 3),
          rho=[0.5], post_transform=transform, kernel_params=KERNEL_PARAMS)  # fmt: skip


def test_probabilities_of_two_classes_are_those_of_their_pair() -> None:
    x = torch.tensor([[0.5], [-1.0]])
    _, p = svm_classifier(
        x, classlabels_ints=(0, 1), coefficients=(1.0, 1.0), rho=(0.0,), support_vectors=(1.0, 0.0),
        vectors_per_class=(1, 1), prob_a=(-2.0,), prob_b=(0.0,),
    )  # fmt: skip
    torch.testing.assert_close(p[:, 0], torch.sigmoid(2 * x[:, 0]), atol=5e-3, rtol=0)
    torch.testing.assert_close(p.sum(-1), torch.ones(2))
    with pytest.raises(InvalidModelError, match="kernel_type 'CUBE' is none of"):
        svm_regressor(x, coefficients=(1.0,), n_supports=1, support_vectors=(1.0,), kernel_type="CUBE")


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("LinearClassifier", {"coefficients": [1.0], "classlabels_strings": ["a", "b"]}),
        ("OneHotEncoder", {"cats_strings": ["a"]}),
        ("LabelEncoder", {"keys_int64s": [1], "values_strings": ["a"]}),
    ],
)
def test_strings_are_refused_on_import(op_type: str, attributes: dict[str, Any]) -> None:
    names = ["y", "z"] if op_type == "LinearClassifier" else ["y"]
    node = helper.make_node(op_type, ["x"], names, domain="ai.onnx.ml", **attributes)
    x, y = (helper.make_tensor_value_info(n, 1, None) for n in ("x", "y"))
    graph = helper.make_graph([node], "g", [x], [y])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 4)]
    with pytest.raises(UnsupportedModelError, match="has strings, for which torch has no tensors"):
        qt.import_model(helper.make_model(graph, opset_imports=imports, ir_version=8))


@pytest.mark.parametrize("op_type", ["ZipMap", "CastMap", "DictVectorizer", "CategoryMapper"])
def test_maps_are_refused_by_name(op_type: str) -> None:
    node = helper.make_node(op_type, ["x"], ["y"], domain="ai.onnx.ml")
    x, y = (helper.make_tensor_value_info(n, 1, None) for n in ("x", "y"))
    graph = helper.make_graph([node], "g", [x], [y])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 4)]
    with pytest.raises(UnsupportedModelError, match=f"ai.onnx.ml::{op_type} version 4"):
        qt.import_model(helper.make_model(graph, opset_imports=imports, ir_version=8))
