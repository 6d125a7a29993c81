"""The mask inspector: ``inspect(segmenter, images)`` in any cell.

``state`` is what it does, without a browser; ``shown`` and ``panels`` draw it; ``widget`` puts controls round it.
"""

from fusionerlib.inspector.cases import Case, saved_cases
from fusionerlib.inspector.state import InspectorState
from fusionerlib.inspector.widget import Inspector, inspect, parsed

__all__ = ["Case", "Inspector", "InspectorState", "inspect", "parsed", "saved_cases"]
