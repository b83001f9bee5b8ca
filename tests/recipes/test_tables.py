from recipes.tables import markdown_table
from tests.recipes.printed import without_padding


def test_cells_of_a_table():
    rows = [("1e5", 1234, 0.125, None), ("a|b", 5, 2.0, "2 ± 1"), ("001",)]
    table = markdown_table(["|λ|", "images", "loss", 7], rows, [0, 0, 3, 2])
    assert without_padding(table).splitlines()[::2] == [
        r"| \|λ\| | images | loss | 7 |",
        "| 1e5 | 1,234 | 0.125 | – |",
        "| 001 | – | – | – |",
    ]
    assert r"| a\|b |" in without_padding(table)
    assert len({len(line) for line in table.splitlines()}) == 1
