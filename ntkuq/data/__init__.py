"""Data: `Dataset`, `Batches`, `Split`, sets by name, files, the store of a run."""

from ntkuq.data import shifts as shifts
from ntkuq.data.batches import (
    Batches as Batches,
    BatchesChanged as BatchesChanged,
    DataLike as DataLike,
    as_data as as_data,
    as_dataset as as_dataset,
    chunks as chunks,
)
from ntkuq.data.checkpoint import Checkpoint as Checkpoint
from ntkuq.data.dataset import (
    Dataset as Dataset,
    Split as Split,
    as_classes as as_classes,
    constant_features as constant_features,
)
from ntkuq.data.errors import DataError as DataError, DataWarning as DataWarning
from ntkuq.data.images import load_images as load_images
from ntkuq.data.loaders import (
    SetInfo as SetInfo,
    info as info,
    load as load,
    names as names,
)
from ntkuq.data.moments import Moments as Moments
from ntkuq.data.reader import (
    has_split as has_split,
    read as read,
    read_predictions as read_predictions,
    read_split as read_split,
)
from ntkuq.data.store import (
    Store as Store,
    StoreError as StoreError,
    digest as digest,
    jsonable as jsonable,
    write_bytes as write_bytes,
    write_json as write_json,
)
