"""Ways to break an ONNX file: in its bytes, in its messages, and in the graph that they are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

Corpus = Sequence[bytes]

INTEGERS = [0, 1, -1, 2, 3, 7, 64, 4096, -4096, 1 << 20, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 40, 1 << 62]
INTEGERS += [(1 << 63) - 1, -(1 << 63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan")]
TEXTS = [
    "",
    "x",
    "y",
    "0",
    ".",
    "a.b",
    "..",
    "/",
    "forward",
    "__class__",
    "self",
    "training",
    "a);import os#",
]
TEXTS += ["new\nline", "nul\0", "\u202e", "\U0001f642", "ai.onnx", "qonnx.custom_op.general", "n" * 5000]
NOT_UTF8 = "\uffff\uffff"  # three bytes each; made invalid after serializing


# -- bytes ---------------------------------------------------------------------------------------------


def flip_bits(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    broken = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 4, 8, 32])):
        broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
    return bytes(broken)


def set_bytes(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    broken = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 4, 8])):
        broken[dice.randrange(len(broken))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
    return bytes(broken)


def truncate(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    return content[: dice.randrange(len(content))]


def cut_out(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    start = dice.randrange(len(content))
    return content[:start] + content[start + dice.randrange(1, 200) :]


def repeat_part(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    start = dice.randrange(len(content))
    part = content[start : start + dice.randrange(1, 400)]
    return content[:start] + part * dice.choice([2, 3, 50]) + content[start:]


def splice(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    other = dice.choice(corpus)
    start, place = dice.randrange(len(other)), dice.randrange(len(content))
    part = other[start : start + dice.randrange(1, 2000)]
    return content[:place] + part + content[place + dice.choice([0, len(part)]) :]


def append_other(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    return content + dice.choice(corpus)  # protobuf merges the two


def break_text(content: bytes, dice: random.Random, corpus: Corpus) -> bytes:
    model = ModelProto.FromString(content)
    strings = [(m, f) for m in _messages(model) for f in _fields(m) if f.type == FieldDescriptor.TYPE_STRING]
    message, field = dice.choice(strings)
    if field.is_repeated:
        values = getattr(message, field.name)
        values[dice.randrange(len(values))] = NOT_UTF8
    else:
        setattr(message, field.name, NOT_UTF8)
    return model.SerializeToString().replace(NOT_UTF8.encode(), b"\xff\xfe\xc3\x28\x80\x00")


# -- messages ------------------------------------------------------------------------------------------


def _fields(message: Message) -> list[FieldDescriptor]:
    return [field for field, _ in message.ListFields()]


def _messages(message: Message) -> Iterator[Message]:
    waiting = [message]
    while waiting:
        found = waiting.pop()
        yield found
        for field, value in found.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                waiting.extend(value if field.is_repeated else [value])


def change_fields(model: ModelProto, dice: random.Random) -> None:
    """Changes a few fields anywhere, of whatever type they are."""
    messages = list(_messages(model))
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        message = dice.choice(messages)
        field = dice.choice(message.DESCRIPTOR.fields if dice.random() < 0.3 else _fields(message) or [None])
        if field is not None:
            _change(message, field, dice, messages)


def _change(message: Any, field: Any, dice: random.Random, messages: Sequence[Message]) -> None:
    value = getattr(message, field.name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        alike = [m for m in messages if m.DESCRIPTOR is field.message_type]
        other = dice.choice(alike) if alike else None
        if field.is_repeated:
            _change_list(value, dice, lambda: other)
        elif dice.random() < 0.4 or other is None:
            message.ClearField(field.name)
        elif other is not value:
            copy = type(other)()
            copy.CopyFrom(other)
            value.CopyFrom(copy)
        return
    if field.is_repeated:
        _change_list(value, dice, lambda: _scalar(field, value[0] if value else None, dice))
    elif dice.random() < 0.15:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, value, dice))


def _change_list(values: Any, dice: random.Random, new: Callable[[], Any]) -> None:
    action = dice.choice(["delete", "repeat", "new", "clear", "swap", "many"])
    length = len(values)
    if action == "delete" and length:
        del values[dice.randrange(length)]
    elif action == "clear":
        del values[:]
    elif action == "swap" and length > 1:
        order = list(values)
        dice.shuffle(order)
        copies = [_copied(v) for v in order]
        del values[:]
        values.extend(copies)
    else:
        value = values[dice.randrange(length)] if action == "repeat" and length else new()
        if value is not None:
            values.extend([_copied(value)] * (dice.choice([100, 2000]) if action == "many" else 1))


def _copied(value: Any) -> Any:
    if not isinstance(value, Message):
        return value
    copy = type(value)()
    copy.CopyFrom(value)
    return copy


def _scalar(field: Any, value: Any, dice: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return dice.choice([v.number for v in field.enum_type.values])
    if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32):
        near = [value + 1, value - 1, -value, value * 2] if isinstance(value, int) else []
        number = dice.choice([*INTEGERS, *near, dice.randrange(-70, 70)])
        bits = 31 if kind == FieldDescriptor.CPPTYPE_INT32 else 63
        return max(-(1 << bits), min((1 << bits) - 1, number))
    if kind == FieldDescriptor.CPPTYPE_UINT64:
        return dice.choice([0, 1, 1 << 40, (1 << 64) - 1])
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return dice.choice([*FLOATS, dice.uniform(-10, 10)])
    if field.type == FieldDescriptor.TYPE_BYTES:
        content = value or b"\0\0\0\0"
        return dice.choice(
            [b"", content[:-1], content + b"\0", content * 2, dice.randbytes(len(content) % 4096)]
        )
    return dice.choice([*TEXTS, (value or "") + "1", (value or "")[:-1]])


# -- graphs --------------------------------------------------------------------------------------------


def _graphs(model: ModelProto) -> list[GraphProto]:
    return [m for m in _messages(model) if isinstance(m, GraphProto)]


def _values(graph: GraphProto) -> list[str]:
    names = [v.name for v in (*graph.input, *graph.output, *graph.initializer)]
    return names + [n for node in graph.node for n in (*node.input, *node.output)] + ["", "nowhere"]


def rename_values(model: ModelProto, dice: random.Random) -> None:
    """Lets nodes read and give other values: dangling names, cycles, values given twice."""
    graph = dice.choice(_graphs(model))
    names = _values(graph)
    for _ in range(dice.choice([1, 1, 2, 5])):
        owner = dice.choice([*graph.node, *graph.input, *graph.output, *graph.initializer])
        if not isinstance(owner, NodeProto):
            owner.name = dice.choice(names)
            continue
        ends = dice.choice([owner.input, owner.output])
        if ends and dice.random() < 0.8:
            ends[dice.randrange(len(ends))] = dice.choice(names)
        else:
            ends.extend([dice.choice(names)] * dice.choice([1, 1, 3, 200]))


def change_operators(model: ModelProto, dice: random.Random) -> None:
    """Makes nodes of one type nodes of another, in another domain, or with another's attributes."""
    nodes = [m for m in _messages(model) if isinstance(m, NodeProto)]
    for _ in range(dice.choice([1, 1, 2])):
        node, other = dice.choice(nodes), dice.choice(nodes)
        what = dice.randrange(5)
        if what == 0:
            node.op_type = dice.choice(_operators())
        elif what == 1:
            node.op_type = other.op_type
        elif what == 2:
            node.domain = dice.choice(
                ["", "ai.onnx", "qonnx.custom_op.general", "com.microsoft", "ai.onnx.ml"]
            )
        elif what == 3:
            node.attribute.extend([_copied(a) for a in other.attribute])
        else:
            del node.attribute[:]


def _operators() -> list[str]:
    from qonnx_torch.registry import REGISTRY

    return sorted({operator.op_type for operator in REGISTRY})


def change_attributes(model: ModelProto, dice: random.Random) -> None:
    """Gives attributes other types, numbers that they do not expect, and tensors in the place of numbers."""
    attributes = [m for m in _messages(model) if isinstance(m, AttributeProto)]
    if not attributes:
        return change_operators(model, dice)
    for _ in range(dice.choice([1, 1, 2])):
        attribute = dice.choice(attributes)
        what = dice.randrange(6)
        if what == 0:
            attribute.type = dice.choice(AttributeProto.AttributeType.values())
        elif what == 1:
            attribute.i, attribute.type = dice.choice(INTEGERS), AttributeProto.INT
        elif what == 2:
            attribute.ints.extend([dice.choice(INTEGERS)] * dice.choice([1, 3, 50_000]))
        elif what == 3:
            attribute.f, attribute.type = dice.choice(FLOATS), AttributeProto.FLOAT
        elif what == 4:
            name = attribute.name
            attribute.CopyFrom(helper.make_attribute(name, [dice.choice(INTEGERS) for _ in range(3)]))
        else:
            name = attribute.name
            tensor = helper.make_tensor("", TensorProto.INT64, [1], [dice.choice(INTEGERS)])
            attribute.CopyFrom(helper.make_attribute(name, tensor))


def change_tensors(model: ModelProto, dice: random.Random) -> None:
    """Gives tensors other shapes, types and data."""
    tensors = [m for m in _messages(model) if isinstance(m, TensorProto)]
    if not tensors:
        return change_operators(model, dice)
    for _ in range(dice.choice([1, 1, 2])):
        tensor = dice.choice(tensors)
        what = dice.randrange(6)
        if what == 0:
            tensor.dims.append(dice.choice(INTEGERS))
        elif what == 1 and tensor.dims:
            tensor.dims[dice.randrange(len(tensor.dims))] = dice.choice(INTEGERS)
        elif what == 2:
            tensor.data_type = dice.choice([*TensorProto.DataType.values(), 99, -1])
        elif what == 3:
            tensor.raw_data = dice.choice([b"", tensor.raw_data[:-1], b"\xff" * len(tensor.raw_data)])
        elif what == 4:
            _put_numbers(tensor, dice)
        else:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=dice.choice(["w.bin", "../x", "/dev/zero", "."]))


def _put_numbers(tensor: TensorProto, dice: random.Random) -> None:
    """Keeps shape and type, where these are small, but with hostile numbers as data."""
    try:
        array = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        count = 1
        for dim in tensor.dims:
            count *= dim
        if 0 < count <= 4096:
            pool: list[Any] = INTEGERS if array.kind in "iu" else FLOATS
            info = [max(-(1 << 31), min((1 << 31) - 1, n)) for n in pool] if array.kind in "iu" else pool
            numbers = [dice.choice(info) for _ in range(count)]
            new = helper.make_tensor(tensor.name, tensor.data_type, list(tensor.dims), numbers)
            tensor.CopyFrom(new)
    except (KeyError, ValueError, TypeError, OverflowError):
        tensor.ClearField("raw_data")


def change_versions(model: ModelProto, dice: random.Random) -> None:
    """Imports other operator sets, or none; another IR version."""
    for _ in range(dice.choice([1, 1, 2])):
        what = dice.randrange(4)
        if what == 0 and model.opset_import:
            entry = dice.choice(model.opset_import)
            entry.version = dice.choice([*INTEGERS, *range(1, 30)])
        elif what == 1:
            del model.opset_import[:]
        elif what == 2:
            model.ir_version = dice.choice(INTEGERS)
        else:
            domain = dice.choice(["", "ai.onnx", "qonnx.custom_op.general", "finn", "x"])
            model.opset_import.extend(
                [helper.make_opsetid(domain, dice.randrange(1, 30))] * dice.choice([1, 1, 5000])
            )


def change_nodes(model: ModelProto, dice: random.Random) -> None:
    """Deletes, repeats and shuffles nodes; puts graphs into each other."""
    graph = dice.choice(_graphs(model))
    what = dice.randrange(5)
    if what == 0 and graph.node:
        del graph.node[dice.randrange(len(graph.node))]
    elif what == 1 and graph.node:
        graph.node.append(_copied(dice.choice(graph.node)))
    elif what == 2:
        nodes = [_copied(n) for n in graph.node]
        dice.shuffle(nodes)
        del graph.node[:]
        graph.node.extend(nodes)
    elif what == 3 and graph.initializer:
        graph.initializer.append(_copied(dice.choice(graph.initializer)))
    else:
        for _ in range(dice.choice([1, 2, 25])):
            inner = _copied(model.graph)
            if inner.ByteSize() > 100_000:
                break
            branches = {"then_branch": inner, "else_branch": inner}
            node = helper.make_node("If", [dice.choice(_values(inner))], ["y"], **branches)
            del model.graph.node[:]
            model.graph.node.append(node)


_SIZED = [
    "Loop",
    "Expand",
    "Tile",
    "ConstantOfShape",
    "Range",
    "Pad",
    "Resize",
    "Upsample",
    "OneHot",
    "Split",
    "Reshape",
    "TopK",
    "RandomUniform",
    "Slice",
    "Gather",
    "Scan",
    "HannWindow",
    "Squeeze",
]
_LARGE = [7, 64, 4096, 60_000, 1 << 16, 1 << 20, 1 << 28, 1 << 31, 1 << 40, 1 << 62]


def enlarge_constants(model: ModelProto, dice: random.Random) -> None:
    """Lets constants that say how large or how often something is say that it is huge."""
    graphs = _graphs(model)
    if dice.random() < 0.5:
        _insert_sized(dice.choice(graphs), dice)
    nodes = [node for graph in graphs for node in graph.node]
    read = {name for node in nodes if node.op_type in _SIZED for name in node.input}
    tensors = [t for graph in graphs for t in graph.initializer if t.name in read]
    constants = [n for n in nodes if n.op_type == "Constant" and n.output and n.output[0] in read]
    tensors += [a.t for node in constants for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        if dice.random() < 0.5 and len(tensor.dims) <= 1 and sum(tensor.dims) <= 64:
            count = sum(tensor.dims) if tensor.dims else 1
            number = dice.choice(_LARGE)
            numbers = [dice.choice([1, number, dice.choice(_LARGE)]) for _ in range(count)]
            if tensor.data_type not in (TensorProto.INT64, TensorProto.DOUBLE, TensorProto.FLOAT):
                numbers = [min(n, 127) for n in numbers]
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, numbers))


def _insert_sized(graph: GraphProto, dice: random.Random) -> None:
    """Puts a node of a size, or number of rounds, that a constant tells between a value and its reader."""
    node = dice.choice(graph.node)
    slot = dice.randrange(len(node.input))
    value, name = node.input[slot], f"sized_{len(graph.node)}"
    op_type = dice.choice(["Expand", "Tile", "Loop"])
    rank = 0 if op_type == "Loop" else dice.randrange(1, 5)
    numbers = [dice.choice([1, 1, dice.choice(_LARGE)]) for _ in range(rank or 1)]
    sizes = helper.make_tensor(f"{name}_by", TensorProto.INT64, [rank] if rank else [], numbers)
    graph.initializer.append(sizes)
    if op_type == "Loop":
        sized = helper.make_node("Loop", [sizes.name, "", value], [name], body=_endless(dice))
    else:
        sized = helper.make_node(op_type, [value, sizes.name], [name])
    node.input[slot] = name
    graph.node.append(sized)  # the order of nodes does not matter


def _endless(dice: random.Random) -> GraphProto:
    """Returns a loop's body that never says that it is enough."""
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "a": TensorProto.FLOAT}
    nodes = [helper.make_node("Identity", ["c"], ["going"])]
    if dice.random() < 0.5:
        nodes.append(helper.make_node("Add", ["a", "a"], ["b"]))
    else:
        numbers = [dice.choice(_LARGE), dice.choice(_LARGE)]
        sizes = helper.make_tensor("", TensorProto.INT64, [2], numbers)
        nodes.append(helper.make_node("Constant", [], ["sizes"], value=sizes))
        nodes.append(helper.make_node("Expand", [dice.choice(["i", "c", "a"]), "sizes"], ["b"]))
    inputs = [helper.make_tensor_value_info(n, t, None if n == "a" else []) for n, t in kinds.items()]
    outputs = [helper.make_tensor_value_info("going", TensorProto.BOOL, [])]
    outputs.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, None))
    return helper.make_graph(nodes, "body", inputs, outputs)


def repeat_nodes(model: ModelProto, dice: random.Random) -> None:
    """Puts a node many times behind itself; all read the same constants."""
    graph = dice.choice(_graphs(model))
    node = dice.choice(graph.node)
    times = dice.choice([2, 30, 100, 500])
    if not (node.input and node.output) or node.ByteSize() * times > 1 << 20:
        return
    given, result = node.input[0], node.output[0]
    for i in range(times):
        copy = _copied(node)
        copy.input[0] = given
        if i < times - 1:
            for k, name in enumerate(node.output):
                copy.output[k] = f"{name}_again_{i}" if name else ""
        given = copy.output[0]
        graph.node.append(copy)
    graph.node.remove(node)
    assert given == result


ON_BYTES = [flip_bits, set_bytes, truncate, cut_out, repeat_part, splice, append_other, break_text]
ON_MODELS = [
    change_fields,
    rename_values,
    change_operators,
    change_attributes,
    change_tensors,
    change_versions,
    change_nodes,
    enlarge_constants,
    repeat_nodes,
]
NAMES = [f.__name__ for f in (*ON_MODELS, *ON_BYTES)]


def mutated(corpus: Corpus, dice: random.Random, change: Any = None) -> tuple[str, bytes]:
    """Returns what was done (first), and the broken file; the dice choose the change where none is given."""
    content = dice.choice(corpus)
    change = change or dice.choice(ON_BYTES if dice.random() < 0.3 else ON_MODELS)
    if change in ON_BYTES:
        return change.__name__, change(content, dice, corpus)
    changes = [change, *(dice.choice(ON_MODELS) for _ in range(dice.choice([0, 0, 0, 1, 2])))]
    model = ModelProto.FromString(content)
    for rewrite in changes:
        try:
            rewrite(model, dice)
        except (ValueError, TypeError, IndexError, EncodeError, DecodeError):
            continue  # there is nothing of the kind, or protobuf refuses to hold it
    try:
        return changes[0].__name__, model.SerializeToString()
    except (EncodeError, ValueError):
        return changes[0].__name__, content
