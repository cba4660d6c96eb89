"""The study file: its sections, search axes, layers of defaults, checks, and how it is read.

The classes are light: they import neither torch nor Ray. Reading and checking are in separate modules.
"""

from puzzle_study.config.attacks import Attacks as Attacks
from puzzle_study.config.attacks import Certify as Certify
from puzzle_study.config.corruptions import Corrupted as Corrupted
from puzzle_study.config.corruptions import Corruptions as Corruptions
from puzzle_study.config.search import AXIS_KINDS as AXIS_KINDS
from puzzle_study.config.search import NEED_TEST_LABELS as NEED_TEST_LABELS
from puzzle_study.config.search import Axis as Axis
from puzzle_study.config.search import Objective as Objective
from puzzle_study.config.search import Racing as Racing
from puzzle_study.config.search import Search as Search
from puzzle_study.config.search import Stopping as Stopping
from puzzle_study.config.study import Data as Data
from puzzle_study.config.study import Evaluate as Evaluate
from puzzle_study.config.study import Resources as Resources
from puzzle_study.config.study import Robust as Robust
from puzzle_study.config.study import Settings as Settings
from puzzle_study.config.study import Study as Study
from puzzle_study.config.types import MOST_EPOCHS as MOST_EPOCHS
from puzzle_study.config.types import MOST_SEED as MOST_SEED
from puzzle_study.config.types import DetectorSettings as DetectorSettings
from puzzle_study.config.types import Layer as Layer
from puzzle_study.config.types import Reading as Reading
from puzzle_study.config.types import Scalar as Scalar
from puzzle_study.config.types import Section as Section
