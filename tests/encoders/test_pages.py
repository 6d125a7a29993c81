"""The page of encoders against the registry; tests/test_docs.py runs the example of adding one."""

import re
from pathlib import Path

from fusionerlib.encoders.registry import PREFIXES, list_encoders

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_has_every_encoder_with_its_licence() -> None:
    rows = re.findall(
        r"^\| (`.*?) \| (.*?) \| .*? \| (.*?) \|$", (ROOT / "docs" / "encoders.md").read_text(), re.MULTILINE
    )
    listed = {
        (role, name): licence
        for names, roles, licence in rows
        for name in re.findall("`(.*?)`", names)
        for role in roles.split(", ")
    }
    for spec in list_encoders():
        licence = listed.pop((spec.role, spec.name))
        assert licence.startswith(spec.licence), spec.name
        assert all(part in licence for part in re.findall(r"https://\S+|non-commercial use only", spec.terms)), (
            spec.name
        )
    assert {(role, name.partition(":")[0]) for role, name in listed} == set(PREFIXES)
