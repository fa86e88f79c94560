"""The crops: codes, calendars by region, and how canopy and backscatter follow development.

Development is a stage s(t): 0 sown, 1 emerged, 2 fast growth (cereals: stem elongation, BBCH 30; rows begin to
close), 3 full canopy (cereals: heading, BBCH 55), 4 senescence begins, 5 ripe. Between stages s grows with degree days
(McMaster and Wilhelm 1997, method 1): the degree days that separate two stages are those of the calendar in the
region's average year, so a warm year is early and a cold one late.

Calendars: JRC-MARS European crop calendar (winter wheat, grain maize); Arvalis, Centre and Hauts-de-France (cereals:
stem elongation "fin mars a debut avril" in the north, March in Centre); Terres Inovia (rapeseed; sunflower: emerged
before 1 May, cut in September, at the latest 10-15 October); IRS, Sugar Beet Growing in the Netherlands, 2005, and
Cosun (mean sowing 7 to 16 April, lifted by mid-November); WUR KWIN-AGV (potato, onion); IFV (vine: budburst to
flowering 400-500, to veraison 1200-1400 degree days above 10 C); grass and alfalfa: see growth.py. The day ranges are
rounded readings of these, not copies, and were fitted to monthly NDVI of Dutch (2023) and French (2022-2024) parcels.

Codes: HCAT3 (EuroCrops, Schneider et al. 2023); Dutch BRP and French RPG codes from the same project's country tables.

Canopy levels in dB at 38 degrees and optical depths (water cloud model, radar.py) were set on monthly means of VV and VH
of the Dutch parcels of 2023 (wheat, beet, potato, onion, grass; rms difference 1.5 and 1.7 dB by crop, orbit and month)
and on the French pixels (barley, rapeseed, sunflower, vine, maize); their shape is that of Veloso et al. 2017 and
Khabbazan et al. 2019.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["annual", "sward", "vine"]

STAGES: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
"""Development stages at which the curves of a crop are given."""


def day(mmdd: int) -> int:
    """Return days from 1 January of the harvest year to a date written as month and day: 403 is 3 April, -1008 is 8 October
    of the year before."""
    starts = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
    return starts[abs(mmdd) // 100 - 1] + abs(mmdd) % 100 - 1 - (365 if mmdd < 0 else 0)


@dataclass(frozen=True)
class Calendar:
    """Days of an average year, counted from 1 January of the harvest year."""

    sowing: tuple[int, int]
    emergence: int
    fast_growth: int
    full_canopy: int
    senescence: int
    ripe: int
    harvest: tuple[int, int]


@dataclass(frozen=True)
class Crop:
    """What a crop is called, when it grows and its appearance at each of STAGES."""

    key: str
    name: str
    hcat_code: str
    agency_code: dict[str, str]
    """Code in the declaration file of each region (BRP in the lowlands, RPG in the centre)."""
    kind: Kind
    base_c: float
    """Base temperature of degree days."""
    calendar: dict[str, Calendar]
    lai: tuple[float, ...] = ()
    water: tuple[float, ...] = ()
    """Canopy water, kg/m2."""
    vv: tuple[float, ...] = ()
    vh: tuple[float, ...] = ()
    """Backscatter of an optically thick canopy, dB at 38 degrees."""
    depth: tuple[float, float] = (0.30, 0.27)
    """B of the water cloud model for VV and VH, m2/kg."""
    is_ridged: bool = False


def _calendar(sow: tuple[int, int], stages: tuple[int, int, int, int, int], harvest: tuple[int, int]) -> Calendar:
    """Return a calendar from dates in the form that `day` reads."""
    emergence, fast_growth, full_canopy, senescence, ripe = map(day, stages)
    sowing, cut = (day(sow[0]), day(sow[1])), (day(harvest[0]), day(harvest[1]))
    return Calendar(sowing, emergence, fast_growth, full_canopy, senescence, ripe, cut)


CROPS: tuple[Crop, ...] = (
    # Arvalis and JRC-MARS; three weeks of sowing delay are three days at flowering (Arvalis), see plan.py.
    # VV falls 6 to 8 dB at stem elongation: vertical stems attenuate VV (Brown et al. 2003, IEEE TGRS 41).
    Crop(
        "winter_wheat",
        "winter wheat",
        "3301010101",
        {"lowlands": "233", "centre": "BTH"},
        "annual",
        0.0,
        {
            "lowlands": _calendar((-1008, -1118), (-1108, 403, 522, 621, 720), (720, 811)),
            "centre": _calendar((-1005, -1110), (-1105, 320, 506, 606, 705), (705, 722)),
        },
        lai=(0.05, 0.50, 1.35, 3.60, 5.40, 4.60, 0.25),
        water=(0.0, 0.10, 0.45, 2.40, 3.40, 2.20, 0.3),
        vv=(-15.0, -15.5, -17.0, -19.0, -18.5, -15.0, -12.5),
        vh=(-21.0, -20.0, -21.5, -24.0, -22.5, -19.8, -18.5),
        depth=(0.35, 0.20),
    ),
    # VH of barley is 2 to 3 dB above wheat from heading on: awns bend over (French pixels; Harfenmeister et al. 2019).
    Crop(
        "winter_barley",
        "winter barley",
        "3301010401",
        {"lowlands": "235", "centre": "ORH"},
        "annual",
        0.0,
        {
            "lowlands": _calendar((-925, -1020), (-1016, 327, 508, 606, 705), (704, 722)),
            "centre": _calendar((-1001, -1028), (-1024, 312, 425, 524, 618), (618, 706)),
        },
        lai=(0.05, 0.60, 1.55, 3.70, 5.10, 4.20, 0.25),
        water=(0.0, 0.14, 0.55, 2.30, 3.10, 2.40, 0.4),
        vv=(-15.0, -15.5, -16.5, -18.0, -17.0, -13.5, -13.0),
        vh=(-24.0, -23.0, -22.5, -22.5, -20.0, -17.2, -18.5),
        depth=(0.34, 0.21),
    ),
    # Terres Inovia; VH tops all crops in May (-12 dB, French pixels): branched stems and pods.
    Crop(
        "winter_rapeseed",
        "winter rapeseed",
        "3301060401",
        {"lowlands": "1922", "centre": "CZH"},
        "annual",
        0.0,
        {
            "lowlands": _calendar((-820, -910), (-908, 318, 424, 614, 712), (714, 801)),
            "centre": _calendar((-815, -905), (-902, 301, 408, 602, 627), (629, 714)),
        },
        lai=(0.08, 1.60, 1.80, 3.20, 4.00, 2.60, 0.20),
        water=(0.0, 0.80, 1.20, 3.00, 4.20, 4.20, 0.8),
        vv=(-11.0, -10.0, -10.5, -10.2, -9.2, -8.3, -12.0),
        vh=(-19.0, -16.0, -16.5, -15.2, -13.2, -12.9, -18.0),
        depth=(0.30, 0.30),
    ),
    Crop(
        "spring_barley",
        "spring barley",
        "3301010402",
        {"lowlands": "236", "centre": "ORP"},
        "annual",
        0.0,
        {
            "lowlands": _calendar((303, 405), (406, 507, 601, 628, 726), (726, 816)),
            "centre": _calendar((215, 322), (322, 422, 518, 612, 708), (708, 726)),
        },
        lai=(0.05, 0.60, 1.40, 3.20, 4.50, 3.70, 0.25),
        water=(0.0, 0.28, 0.75, 2.00, 2.80, 2.20, 0.4),
        vv=(-15.0, -15.5, -16.5, -18.0, -17.0, -13.8, -13.0),
        vh=(-24.0, -23.0, -22.5, -22.3, -20.0, -17.4, -18.5),
        depth=(0.34, 0.21),
    ),
    # JRC-MARS; silage maize, cut green at dough stage.
    Crop(
        "maize",
        "silage maize",
        "3301090400",
        {"lowlands": "259", "centre": "MIE"},
        "annual",
        8.0,
        {
            "lowlands": _calendar((420, 515), (515, 616, 728, 901, 1005), (912, 1012)),
            "centre": _calendar((410, 508), (506, 608, 718, 820, 920), (828, 1002)),
        },
        lai=(0.03, 0.22, 0.75, 2.40, 4.40, 3.80, 1.20),
        water=(0.0, 0.12, 0.50, 2.00, 4.20, 4.20, 2.4),
        vv=(-12.0, -11.5, -10.5, -9.8, -10.0, -10.2, -10.4),
        vh=(-22.0, -20.0, -18.5, -16.5, -15.8, -15.8, -16.5),
        depth=(0.25, 0.24),
    ),
    # IRS 2005, Cosun; canopy stays green until lifting.
    Crop(
        "sugar_beet",
        "sugar beet",
        "3301290700",
        {"lowlands": "256", "centre": "BTN"},
        "annual",
        3.0,
        {
            "lowlands": _calendar((322, 422), (426, 602, 712, 920, 1125), (920, 1125)),
            "centre": _calendar((312, 408), (414, 520, 701, 912, 1120), (920, 1125)),
        },
        lai=(0.03, 0.25, 0.90, 2.70, 4.50, 4.20, 3.20),
        water=(0.0, 0.18, 0.75, 2.50, 4.00, 4.00, 3.5),
        vv=(-12.0, -10.5, -9.2, -8.4, -8.1, -7.7, -7.7),
        vh=(-22.0, -18.0, -15.5, -14.5, -14.1, -13.9, -14.0),
    ),
    # WUR KWIN-AGV; Dutch seed potatoes are killed from late July, ware potatoes stand into September.
    Crop(
        "potato",
        "potato",
        "3301030000",
        {"lowlands": "2014", "centre": "PTC"},
        "annual",
        4.0,
        {
            "lowlands": _calendar((405, 508), (518, 606, 703, 802, 905), (828, 1012)),
            "centre": _calendar((325, 428), (506, 528, 624, 726, 828), (822, 1002)),
        },
        lai=(0.05, 0.45, 1.30, 3.10, 4.30, 3.00, 0.25),
        water=(0.0, 0.30, 1.00, 2.60, 3.60, 2.60, 0.4),
        vv=(-11.0, -9.5, -8.7, -8.2, -7.9, -8.2, -10.5),
        vh=(-20.0, -17.0, -15.6, -14.7, -14.4, -15.0, -18.0),
        is_ridged=True,
    ),
    # WUR KWIN-AGV; upright leaves never close the ground, tops fall over in August.
    Crop(
        "onion",
        "seed onion",
        "3301220400",
        {"lowlands": "262", "centre": "OIG"},
        "annual",
        3.0,
        {
            "lowlands": _calendar((320, 420), (430, 612, 714, 806, 828), (826, 922)),
            "centre": _calendar((301, 401), (408, 524, 626, 720, 812), (810, 906)),
        },
        lai=(0.02, 0.12, 0.40, 1.15, 2.20, 1.80, 0.30),
        water=(0.0, 0.10, 0.40, 1.40, 2.60, 2.20, 0.8),
        vv=(-15.0, -15.0, -13.5, -11.5, -10.2, -9.8, -9.5),
        vh=(-24.0, -23.0, -20.5, -16.5, -14.9, -15.0, -16.5),
    ),
    # Terres Inovia; heads hang and dry standing.
    Crop(
        "sunflower",
        "sunflower",
        "3301060500",
        {"lowlands": "515", "centre": "TRN"},
        "annual",
        6.0,
        {
            "lowlands": _calendar((415, 510), (510, 612, 714, 816, 916), (914, 1008)),
            "centre": _calendar((405, 505), (501, 601, 630, 730, 828), (828, 926)),
        },
        lai=(0.03, 0.25, 0.90, 2.40, 3.30, 2.20, 0.20),
        water=(0.0, 0.20, 0.90, 2.80, 4.40, 3.60, 1.0),
        vv=(-12.0, -10.5, -9.2, -8.3, -7.9, -8.2, -9.8),
        vh=(-21.0, -19.0, -17.0, -16.1, -16.1, -16.4, -17.5),
    ),
    Crop(
        "permanent_grass",
        "permanent grassland",
        "3302000000",
        {"lowlands": "265", "centre": "PPH"},
        "sward",
        5.0,
        {},
        depth=(0.36, 0.26),
    ),
    Crop(
        "temporary_grass",
        "temporary grassland",
        "3301090100",
        {"lowlands": "266", "centre": "PTR"},
        "sward",
        5.0,
        {},
        depth=(0.38, 0.26),
    ),
    Crop(
        "alfalfa", "alfalfa", "3301090301", {"lowlands": "258", "centre": "LUZ"}, "sward", 5.0, {}, depth=(0.33, 0.30)
    ),
    # IFV: budburst mid-April, leaf fall in November; grass between the rows, posts and wires echo all year.
    Crop(
        "vineyard",
        "wine grapes",
        "3303060000",
        {"lowlands": "1099", "centre": "VRC"},
        "vine",
        10.0,
        {
            "centre": _calendar((101, 102), (412, 518, 710, 925, 1110), (905, 1005)),
            "lowlands": _calendar((101, 102), (426, 601, 724, 1001, 1112), (920, 1015)),
        },
        lai=(0.02, 0.20, 0.60, 1.20, 1.60, 1.40, 0.10),
        water=(0.0, 0.10, 0.30, 0.60, 0.90, 0.80, 0.1),
        vv=(-9.0, -9.0, -9.0, -8.8, -8.7, -8.8, -9.0),
        vh=(-16.5, -16.5, -16.2, -15.6, -15.3, -15.5, -16.5),
        depth=(0.35, 0.35),
    ),
)

BY_KEY: dict[str, Crop] = {crop.key: crop for crop in CROPS}
INDEX: dict[str, int] = {crop.key: i for i, crop in enumerate(CROPS)}

PERSISTENCE: dict[str, float] = {
    "permanent_grass": 1.0,
    "vineyard": 1.0,  # not rotated
    "temporary_grass": 0.7,  # leys stand three to four years (RPG: "5 ans ou moins")
    "alfalfa": 0.67,  # three years
    "maize": 0.35,
    "winter_wheat": 0.22,  # crops that may follow themselves (RPG successions)
}
"""Chance that a crop is grown again on its field next year; 0 where not named."""
