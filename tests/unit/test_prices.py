"""Prices: each figure has a source and a date, other regions are ranges, and a file of one's own goes before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo_core.cost.prices import INSTANCES, NAMES, PricesInvalid, built_in, price_list
from pyanamo_core.cost.ranges import Range, dollars, exactly, total, two_digits


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "eu-central-1", "sa-east-1", "mars-north-1"])
def test_every_price_has_a_unit_a_source_and_a_date(region: str):
    for name, price in built_in(region).named().items():
        assert price.dollars.low > 0, name
        assert price.unit, name
        assert "AWS" in price.source or "assumed" in price.source or "as write_million" in price.source, name
        assert price.date.startswith("202"), name


def test_us_east_1_has_single_figures_but_for_machines_and_transfer():
    ranges = {name for name, price in built_in().named().items() if not price.dollars.exact}
    assert ranges == {"spot_vcpu_hour", "on_demand_vcpu_hour", "spot_share", "transfer_gb"}
    assert built_in("us-west-2").write_million == built_in().write_million


def test_another_region_is_a_range_that_says_so():
    there = built_in("eu-central-1")
    assert there.s3_gb_month.dollars == Range(0.023, 0.023 * 1.6)
    assert "eu-central-1" in there.s3_gb_month.source
    # What AWS asks there for m5 (0.115 for large, two vCPUs) lies within.
    known = there.vcpu_hour("m5.large", on_demand=True).dollars
    assert known.low < 0.0575 < known.high


def test_spot_of_the_families_lies_around_what_docs_have_measured():
    spot = built_in().vcpu_hour(on_demand=False).dollars
    assert spot.low < 0.02 < spot.high < built_in().vcpu_hour(on_demand=True).dollars.low


def test_a_type_has_the_price_of_its_family():
    prices = built_in()
    assert prices.vcpu_hour("r6i.4xlarge", on_demand=True).dollars == exactly(INSTANCES["r6i"])
    spot = prices.vcpu_hour("r6i.4xlarge", on_demand=False).dollars
    assert spot == exactly(INSTANCES["r6i"]) * prices.spot_share.dollars
    assert prices.vcpu_hour("x99.large", on_demand=True) == prices.on_demand_vcpu_hour


# ------------------------------------------------------------------------------------------------------- a file


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return path


def test_a_file_overrides_what_it_names_and_nothing_else(tmp_path: Path):
    path = written(
        tmp_path,
        "region: eu-west-2\nsource: our contract\ndate: 2026-01-15\nspot_vcpu_hour: [0.012, 0.02]\ns3_gb_month: 0.02\n",
    )
    prices = price_list(path=path)
    assert prices.region == "eu-west-2"
    assert prices.spot_vcpu_hour.dollars == Range(0.012, 0.02)
    assert (prices.s3_gb_month.source, prices.s3_gb_month.date) == ("our contract", "2026-01-15")
    assert prices.write_million == built_in("eu-west-2").write_million
    assert price_list("us-east-1", path).region == "us-east-1"


def test_ones_own_price_of_a_type_goes_before_that_of_its_family_and_of_all(tmp_path: Path):
    path = written(
        tmp_path, "on_demand_vcpu_hour: 0.04\ninstances: {m5: 0.03, m5.xlarge: 0.02}\nspot_share: [0.5, 0.5]\n"
    )
    prices = price_list("us-east-1", path)
    asked = [prices.vcpu_hour(name, on_demand=True).dollars.high for name in ("m5.xlarge", "m5.large", "c5.large", "")]
    assert asked == [0.02, 0.03, 0.04, 0.04]
    assert prices.vcpu_hour("m5.xlarge", on_demand=False).dollars == exactly(0.01)
    assert prices.vcpu_hour(on_demand=False).dollars == exactly(0.02)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spot_vcpu_hou: 0.1", "did you mean spot_vcpu_hour"),
        ("s3_gb_month: cheap", "'cheap' is no number"),
        ("s3_gb_month: -1", "-1 is no number"),
        ("s3_gb_month: .inf", "inf is no number"),
        ("s3_gb_month: .nan", "nan is no number"),
        ("s3_gb_month: true", "True is no number"),
        ("s3_gb_month: [2, 1]", "2.0 is more than 1.0"),
        ("s3_gb_month: [1, 2, 3]", "two numbers"),
        ("instances: [m5]", "names and dollars"),
        ("instances: {m5: free}", "'free' is no number"),
        ("instances: {'M5 large': 1}", "no family"),
        ("- 1", "no names"),
        ("a: [", "expected"),
    ],
)
def test_a_bad_file_is_refused_with_its_fault(tmp_path: Path, text: str, said: str):
    with pytest.raises(PricesInvalid, match=said) as told:
        price_list(path=written(tmp_path, text))
    assert "prices.yaml" in str(told.value)


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(PricesInvalid, match="cannot be read"):
        price_list(path=tmp_path / "nope.yaml")


def test_the_page_lists_every_price():
    page = (Path(__file__).resolve().parents[2] / "docs" / "cost.md").read_text()
    for name in NAMES:
        assert f"`{name}`" in page


def test_the_pages_say_the_prices_in_force():
    docs = Path(__file__).resolve().parents[2] / "docs"
    prices = built_in().named()
    rows = [
        line for line in (docs / "cost.md").read_text().splitlines() if line.startswith("| `") and "`, `" not in line
    ]
    for row in rows:
        name, told = (cell.strip(" `") for cell in row.split("|")[1:3])
        low, _, high = told.partition("–")
        bounds = prices[name].dollars
        assert float(low) == pytest.approx(bounds.low, rel=0.02), name
        assert float(high or low) == pytest.approx(bounds.high, rel=0.02), name
    assert len(rows) == len(NAMES) - 2  # logs stand in one row
    bill = (docs / "aws.md").read_text()
    for name, shown in (
        ("write_million", "0.625 per million write units"),
        ("s3_gb_month", "0.023 a month per GB"),
        ("put_million", "5 per million PUTs"),
        ("get_million", "0.4 per million GETs"),
        ("log_gb", "0.50 per GB"),
        ("secret_month", "0.40 a month"),
        ("spot_vcpu_hour", "Spot 0.013–0.029"),
        ("on_demand_vcpu_hour", "on demand 0.043–0.063"),
    ):
        assert shown in bill, name
        assert float(shown.replace("Spot ", "").replace("on demand ", "").split("–")[0].split()[0]) == pytest.approx(
            prices[name].dollars.low, rel=0.02
        )


# ------------------------------------------------------------------------------------------------------- ranges


def test_ranges_add_and_multiply():
    assert Range(1, 2) + 1 == Range(2, 3)
    assert Range(1, 2) * Range(10, 20) == Range(10, 40)
    assert 3 * Range(1, 2) == Range(3, 6)
    assert Range(10, 20) / Range(2, 5) == Range(2, 10)
    assert total([Range(1, 2), exactly(3)]) == Range(4, 5)
    assert total([]) == exactly(0)
    with pytest.raises(ValueError, match="no range"):
        Range(2, 1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.00341, "0.0034"), (0.0996, "0.10"), (1.249, "1.2"), (9.97, "10"), (47.4, "47"), (5912, "5,900")],
)
def test_numbers_have_two_digits(value: float, shown: str):
    assert two_digits(value) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (exactly(0), "$0"),
        (exactly(0.002), "under $0.01"),
        (Range(0.001, 0.5), "$0–0.50"),
        (Range(0.4, 1.81), "$0.40–1.8"),
        (Range(1240, 5912), "$1,200–5,900"),
        (Range(530, 531), "$530"),
    ],
)
def test_dollars_have_no_false_precision(amount: Range, shown: str):
    assert dollars(amount) == shown


# --------------------------------------------------------------------------------------------------------- Spot


class _Pages:
    def __init__(self, *rows: tuple[str, str, int, str]) -> None:
        self.rows = rows

    def client(self, service: str) -> _Pages:
        assert service == "ec2"
        return self

    def get_paginator(self, name: str) -> _Pages:
        assert name == "describe_spot_price_history"
        return self

    def paginate(self, **asked: object) -> list[dict[str, object]]:
        names = ("InstanceType", "AvailabilityZone", "Timestamp", "SpotPrice")
        return [{"SpotPriceHistory": [dict(zip(names, row, strict=True))]} for row in self.rows]


def told_spot(*rows: tuple[str, str, int, str]) -> tuple[Range, str]:
    from pyanamo_core.cost.closer import spot_now

    prices, said = spot_now(_Pages(*rows), built_in())  # type: ignore[arg-type]
    return prices.vcpu_hour("m5.xlarge", on_demand=False).dollars, said


def test_spot_of_the_moment_is_the_newest_of_each_type_and_zone_by_vcpu():
    found, said = told_spot(
        ("m5.xlarge", "a", 1, "9"),
        ("m5.xlarge", "a", 2, "0.08"),
        ("m5.2xlarge", "a", 1, "0.12"),
        ("r5.4xlarge", "b", 1, "0.32"),
        ("m6i.xlarge", "b", 1, "0.09"),
    )
    assert found.low == pytest.approx(0.015)
    assert 0.02 <= found.high <= 0.0225
    assert said.startswith("Spot at this moment: $0.015–")


def test_without_prices_of_the_moment_the_list_holds():
    found, said = told_spot()
    assert found == built_in().vcpu_hour("m5.xlarge", on_demand=False).dollars
    assert "tells no prices" in said
