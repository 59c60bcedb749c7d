"""The launches of an engine that TensorRT's inspector tells of: what each is, reads, writes and computes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from dsr_export.engine_schedule.graph_sites import GraphSites
from dsr_export.engine_schedule.graph_weights import Weight
from dsr_export.engine_schedule.inspected_layers import Layer
from dsr_export.engine_schedule.inspected_products import convolution_product, gemm_product
from dsr_export.engine_schedule.launches import Call
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.products import Product, attention_product
from dsr_export.engine_schedule.record import ATTENTION, CONVOLUTION, COPY, GEMM, POINTWISE, REDUCTION, TOPK, Launch
from dsr_export.engine_schedule.tensors import BITS, Tensor

NO_LAUNCH = frozenset(
    ["shape_call", "signal", "wait", "reshape", "NoOp", "Constant", "ShapeHostToDevice", "DeviceToShapeHost"]
)
"""Arithmetic on sizes and their copies, what keeps two streams in step, and what only renames a tensor."""
_GENERATED = "kgen"
_KINDS = {
    "gemm": GEMM,
    "fusion": GEMM,
    "CaskGemmMatrixMultiply": GEMM,
    "MatrixMultiply": GEMM,
    "CaskConvolution": CONVOLUTION,
    "CaskGemmConvolution": CONVOLUTION,
    "CaskFlattenConvolution": CONVOLUTION,
    "CaskPooling": REDUCTION,
    "PointWiseV2": POINTWISE,
    "Reformat": COPY,
    "Shuffle": COPY,
}
"""Of `fusion`, a GEMM or convolution with what follows it, only GEMMs were seen."""

_MOVES = frozenset({"Cast", "Conc", "Gath", "Move", "Repl", "Resh", "Scat", "Slic", "Tran"})
_SUMS = frozenset({"Mean", "Sum", "Maxr", "Minr", "Prod"})
"""Words in a generated kernel's name, of what moves values and of what goes over an axis: `_SUMS` told rightly
each of the 2466 kernels in plans of TensorRT-RTX 1.7 whose names are not cut off. TensorRT 10 wrote three letters at
first."""
_SORTS = frozenset({"Topk", "Bott", "Top"})
_THREE = {word[:3]: word for word in _MOVES | {"Mean"}}
_CUT_OFF = "Etc"
_SUMMING_OPS = re.compile("Reduce.*|Softmax|(Layer|RMS|SimplifiedLayer|Instance|Group)Normalization|CumSum|ArgM..")
_PRODUCT_OPS = frozenset({"MatMul", "Einsum", "Gemm"})


class Launches:
    """Of one engine of the graph of `sites`: `made` are the tensors that its layers write, by name."""

    def __init__(self, layers: Iterable[Layer], sites: GraphSites, weights: Mapping[str, Weight]) -> None:
        self.made = {each.name: each for layer in layers for each in layer.writes if layer.kind != "Constant"}
        self._ops = {node.name: node.op_type for node in sites.model.graph.node}
        self._softmaxes, self._weights = frozenset(sites.attentions()), weights

    def call(self, layer: Layer, constants: Sequence[Tensor], unlisted: Sequence[Tensor]) -> Call:
        """`constants` are those that the layer lists; `unlisted` weights that the graph has for it."""
        kernel = _kernel(layer)
        reads = [each for each in layer.reads if not each.on_host and each not in constants]
        writes = [each for each in layer.writes if not each.on_host]
        if not writes:
            raise UnreadableSchedule(f"{layer.kind} {layer.name!r} writes nothing")
        kind = self.kind(layer)
        product = self._product(kind, layer, reads, [*constants, *unlisted], writes)
        read = self._whole(reads) + _bytes([*dict.fromkeys(constants), *unlisted]) + _stored(layer)
        launch = Launch(
            kind=kind,
            kernel=kernel,
            nodes=layer.nodes,
            read=dict(sorted(read.items())),
            written=dict(sorted(_bytes(writes).items())),
            computes=None if product is None else product.computes,
            operations=None if product is None else product.operations,
        )
        return Call(launch, tuple(reads), tuple(writes))

    def kind(self, layer: Layer) -> str:
        """Raises UnreadableSchedule for a kind of layer that is not known."""
        if layer.kind in _KINDS:
            return _KINDS[layer.kind]
        if layer.kind != _GENERATED:
            raise UnreadableSchedule(f"a layer of the unknown kind {layer.kind!r:.40}")
        name, ops = _kernel(layer), [self._ops.get(node) for node in layer.nodes]
        if "mha" in name or self._attends(layer, ops):
            return ATTENTION
        if name.startswith("_gemm"):
            return GEMM
        return _plain_kind(name, [op for op in ops if op])

    def _attends(self, layer: Layer, ops: Sequence[str | None]) -> bool:
        """Whether it holds a softmax and both products, whatever its kernel is called."""
        products = [node for node, op in zip(layer.nodes, ops, strict=True) if op in _PRODUCT_OPS]
        own = [node for node in products if node not in self._weights]
        held = self._softmaxes.intersection(layer.nodes)
        return any(len(own) > 1 or self._ops[node] != "Softmax" for node in held)

    def _product(
        self,
        kind: str,
        layer: Layer,
        reads: Sequence[Tensor],
        constants: Sequence[Tensor],
        writes: Sequence[Tensor],
    ) -> Product | None:
        if kind == ATTENTION:
            if not layer.nodes:
                raise UnreadableSchedule(f"the attention {layer.name!r} names no node")
            return attention_product([*reads, *constants], writes)
        if kind == CONVOLUTION:
            return convolution_product(layer, reads, writes)
        if kind == GEMM:
            weights = [self._weights[node] for node in layer.nodes if node in self._weights]
            return gemm_product(layer, reads, constants, writes, weights)
        return None

    def _whole(self, reads: Sequence[Tensor]) -> Counter[str]:
        """Bytes by type. Several views of one tensor are as much as they are together, and at most all of it."""
        sums, found = Counter[str](), defaultdict[str, list[Tensor]](list)
        for each in reads:
            found[each.name].append(each)
        for name, views in found.items():
            if len({each.type for each in views}) > 1:
                raise UnreadableSchedule(f"the tensor {name!r} is of two types")
            made = self.made.get(name)
            most = made.bytes if made is not None else max(each.bytes for each in views)
            sums[views[0].type] += min(sum(each.bytes for each in views), most)
        return sums


def _kernel(layer: Layer) -> str:
    """Of a generated kernel its own name, without the digest of its code; of others the inspector's word."""
    if layer.kind != _GENERATED:
        return layer.kind
    found = re.fullmatch(r"(\w+?)_0x[0-9a-f]+", layer.tactic) or re.fullmatch(r"(\w+?)_myl\d+_\d+", layer.name)
    if found is None:
        raise UnreadableSchedule(f"the kernel {layer.name[:60]!r} has no name that is known")
    return found[1]


def _plain_kind(name: str, ops: Sequence[str]) -> str:
    words = [_THREE.get(word, word) for word in re.findall("[A-Z][a-z0-9]*", name)]
    cut_off = _CUT_OFF in words
    if _SORTS.intersection(words) or (cut_off and "TopK" in ops):
        return TOPK
    if words and _MOVES.issuperset(words):
        return COPY
    summing = cut_off and any(map(_SUMMING_OPS.fullmatch, ops))
    return REDUCTION if summing or _SUMS.intersection(words) else POINTWISE


def _bytes(found: Iterable[Tensor]) -> Counter[str]:
    sums = Counter[str]()
    for each in found:
        sums[each.type] += each.bytes
    return sums


def _stored(layer: Layer) -> Counter[str]:
    """The weights that a layer outside of Myelin has in itself."""
    sums = Counter[str]()
    for kind, count in layer.weights:
        sums[kind] += -(-count * BITS[kind] // 8)
    return +sums
