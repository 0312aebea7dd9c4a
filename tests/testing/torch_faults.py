"""All PyTorch layers for the kit, one for every fault that it must name."""

from tests.testing.torch_branch_faults import FAULTY as ON_BRANCHES
from tests.testing.torch_claim_faults import FAULTY as OF_CLAIMS
from tests.testing.torch_draw_faults import FAULTY as OF_DRAWS
from tests.testing.torch_half_faults import FAULTY as IN_16_BITS
from tests.testing.torch_large_faults import FAULTY as LARGE
from tests.testing.torch_layer_faults import FAULTY as OF_LAYERS
from tests.testing.torch_path_faults import FAULTY as ON_OTHER_PATHS
from tests.testing.torch_scale_faults import FAULTY as OF_SCALES
from tests.testing.torch_size_faults import FAULTY as AT_OTHER_SIZES
from tests.testing.torch_state_faults import FAULTY as OF_STATE
from tests.testing.torch_token_faults import FAULTY as OF_TOKENS
from tests.testing.transformation_faults import TORCH as UNDER_TRANSFORMATIONS

FAULTY = [
    *OF_SCALES,
    *OF_DRAWS,
    *OF_TOKENS,
    *OF_LAYERS,
    *OF_CLAIMS,
    *ON_OTHER_PATHS,
    *ON_BRANCHES,
    *OF_STATE,
    *AT_OTHER_SIZES,
    *IN_16_BITS,
    *LARGE,
    *UNDER_TRANSFORMATIONS,
]
