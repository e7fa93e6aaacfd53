# The public names of this room; lazy_loader reads this file at run time, so that views
# of a stored run are written without JAX.
from . import (
    figures as figures,
    html as html,
    markdown as markdown,
    tables as tables,
    terminal as terminal,
)
from .catalog import (
    default_methods as default_methods,
)
from .comparison import (
    Comparison as Comparison,
)
from .document import (
    SCHEMA as SCHEMA,
    Document as Document,
    DocumentError as DocumentError,
    dumps as dumps,
    load as load,
    validate as validate,
)
from .extras import (
    AbstractExtra as AbstractExtra,
    KernelRegime as KernelRegime,
    OutsideSets as OutsideSets,
    Reference as Reference,
    SecondOrder as SecondOrder,
    Shifts as Shifts,
)
from .limits import (
    Limits as Limits,
)
from .progress import (
    AbstractProgress as AbstractProgress,
    Silent as Silent,
)
from .run import (
    compare as compare,
)
from .verdicts import (
    verdict as verdict,
)
from .views import (
    write as write,
)
