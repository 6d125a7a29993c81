"""The mask inspector: ``inspect(segmenter, images)`` in any cell.

``state`` holds its state and operations, ``panels`` draws it, ``controls`` and ``widget`` are the user interface, and
``export`` writes it as a picture.
"""

from fusionerlib.inspector.cases import Case, saved_cases
from fusionerlib.inspector.state import InspectorState
from fusionerlib.inspector.widget import Inspector, inspect, parsed

__all__ = ["Case", "Inspector", "InspectorState", "inspect", "parsed", "saved_cases"]
