"""mpk_tensor: operators that a model's author would name, on tensors with value semantics."""

from xdsl.ir import Dialect

from mpkir.dialects.parts import PartsAttr
from mpkir.dialects.shards import ShardAttr
from mpkir.dialects.tensor import (
    attention,
    collectives,
    experts,
    norms,
    pointwise,
    positions,
    products,
    program,
    split_attention,
    tokens,
    views,
)
from mpkir.dialects.tensor.attention import AttentionOp, SdpaOp
from mpkir.dialects.tensor.collectives import AllGatherOp, AllReduceOp, ReduceScatterOp
from mpkir.dialects.tensor.experts import ExpertLinearOp, Scores, ScoresAttr, TopkOp
from mpkir.dialects.tensor.norms import (
    LayerNormOp,
    ReduceOp,
    ReductionKind,
    ReductionKindAttr,
    RmsNormOp,
    SoftmaxOp,
)
from mpkir.dialects.tensor.pointwise import ElementwiseOp, broadcast_shape
from mpkir.dialects.tensor.positions import CacheAppendOp, RotaryOp
from mpkir.dialects.tensor.products import ArgmaxOp, EmbeddingOp, LinearOp, MatmulOp
from mpkir.dialects.tensor.program import (
    FullOp,
    InputOp,
    IotaOp,
    OutputOp,
    PositionOp,
    StateOp,
    StoreStateOp,
    WeightOp,
    YieldOp,
    element_type_of,
    shape_of,
    tensor_type_of,
)
from mpkir.dialects.tensor.split_attention import (
    AttentionJoinOp,
    AttentionMergeOp,
    AttentionSplitOp,
)
from mpkir.dialects.tensor.tokens import (
    ENDED,
    ArgmaxJoinOp,
    ArgmaxMergeOp,
    ArgmaxPartialOp,
    SequenceAppendOp,
    SequenceReadOp,
    sequences_in,
)
from mpkir.dialects.tensor.views import (
    BroadcastOp,
    ConcatOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)

Tensor = Dialect(
    "mpk_tensor",
    [
        *program.OPS,
        *views.OPS,
        *pointwise.OPS,
        *products.OPS,
        *experts.OPS,
        *norms.OPS,
        *positions.OPS,
        *attention.OPS,
        *split_attention.OPS,
        *tokens.OPS,
        *collectives.OPS,
    ],
    [PartsAttr, ReductionKindAttr, ScoresAttr, ShardAttr],
)

__all__ = [
    "ENDED",
    "AllGatherOp",
    "AllReduceOp",
    "ArgmaxJoinOp",
    "ArgmaxMergeOp",
    "ArgmaxOp",
    "ArgmaxPartialOp",
    "AttentionJoinOp",
    "AttentionMergeOp",
    "AttentionOp",
    "AttentionSplitOp",
    "BroadcastOp",
    "CacheAppendOp",
    "ConcatOp",
    "ElementwiseOp",
    "EmbeddingOp",
    "ExpertLinearOp",
    "FullOp",
    "InputOp",
    "IotaOp",
    "LayerNormOp",
    "LinearOp",
    "MatmulOp",
    "OutputOp",
    "PositionOp",
    "ReduceOp",
    "ReduceScatterOp",
    "ReductionKind",
    "ReductionKindAttr",
    "ReshapeOp",
    "RmsNormOp",
    "RotaryOp",
    "Scores",
    "ScoresAttr",
    "SdpaOp",
    "SequenceAppendOp",
    "SequenceReadOp",
    "ShardAttr",
    "SliceOp",
    "SoftmaxOp",
    "StateOp",
    "StoreStateOp",
    "Tensor",
    "TopkOp",
    "TransposeOp",
    "WeightOp",
    "YieldOp",
    "broadcast_shape",
    "element_type_of",
    "sequences_in",
    "shape_of",
    "tensor_type_of",
]
