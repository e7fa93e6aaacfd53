"""Where predictions fail: by group, by distance, in slabs of inputs, by point."""

from .adversarial import (
    AdversarialGroups as AdversarialGroups,
    adversarial_groups as adversarial_groups,
)
from .errors import confident_errors as confident_errors
from .labels import Groups as Groups, quantile_groups as quantile_groups
from .nearness import distance_to_training as distance_to_training
from .slabs import (
    WorstSlab as WorstSlab,
    worst_slab as worst_slab,
    worst_slab_of as worst_slab_of,
)
from .tables import GroupRow as GroupRow, GroupTable as GroupTable
from .tabulate import (
    coverage_by_group as coverage_by_group,
    reliability_by_group as reliability_by_group,
)
