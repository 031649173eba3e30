# SPDX-License-Identifier: Apache-2.0
"""Every published coefficient list, with the scaling, the number of steps and the interval that it was made for."""

from dataclasses import dataclass
from typing import Literal, final

from steepest.geometry.certify import Coefficients, Normalization


@final
@dataclass(frozen=True)
class PublishedList:
    """A coefficient list as its authors gave it, and what it assumes.

    Attributes:
        coefficients: Rows (a, b, c) of a x + b x^3 + c x^5, one for each step.
        steps: How a number of steps other than the list's length is taken: `"fixed"` refuses it, `"repeat"` repeats the
            single row, `"prefix"` takes the first ones, and the last row again when there are more.
        interval: Singular values after the normalization for which it is meant (see `certify`). The upper end is also
            the number that the normalization scales to.
        normalization: The scaling that its authors put in front.
        source: Where the numbers come from.
    """

    coefficients: Coefficients
    steps: Literal["fixed", "repeat", "prefix"]
    interval: tuple[float, float]
    normalization: Normalization
    source: str


_MUON = (3.4445, -4.7750, 2.0315)

#: All have safety factor 1, but `polar-express-safe` and the `designed` ones, whose rows already hold their factor.
PUBLISHED: dict[str, PublishedList] = {
    "newton-schulz-cubic": PublishedList(
        ((1.5, -0.5),), "repeat", (0.15, 1.0), "frobenius", "classic; Higham (2008), Functions of Matrices, section 8.3"
    ),
    "newton-schulz": PublishedList(
        ((15 / 8, -10 / 8, 3 / 8),),
        "repeat",
        (0.05, 1.0),
        "frobenius",
        "classic, order 3; Higham (2008), Functions of Matrices, section 8.3",
    ),
    "muon": PublishedList((_MUON,), "repeat", (1e-3, 1.0), "frobenius", "Jordan (2024), Muon; torch.optim.Muon"),
    "muon-tuned": PublishedList(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        "fixed",
        (1e-3, 1.0),
        "frobenius",
        "You and Cesista (2025), tuned coefficients of the modded-nanogpt medium track; used by HeavyBall",
    ),
    "modula": PublishedList(
        tuple(
            (a / 1024, b / 1024, c / 1024)
            for a, b, c in (
                (3955, -8306, 5008),
                (3735, -6681, 3463),
                (3799, -6499, 3211),
                (4019, -6385, 2906),
                (2677, -3029, 1162),
                (2172, -1833, 682),
            )
        ),
        "fixed",
        (1e-3, 1.0),
        "frobenius",
        "You (2025), in modula",
    ),
    "polar-express": PublishedList(
        (
            (8.287212, -23.595887, 17.300387),
            (4.107059, -2.947850, 0.544843),
            (3.948691, -2.908902, 0.551819),
            (3.318420, -2.488488, 0.510049),
            (2.300652, -1.668904, 0.418807),
            (1.891301, -1.267996, 0.376804),
            (1.875001, -1.250002, 0.375000),
            (1.875000, -1.250000, 0.375000),
        ),
        "prefix",
        (1e-3, 1.0),
        "frobenius",
        "Amsel et al. (2025), Polar Express, arXiv:2505.16932; l = 1e-3, cushion 0.02407327424182761",
    ),
    "polar-express-safe": PublishedList(
        (
            (8.1566, -22.4833, 15.8788),
            (4.0429, -2.8089, 0.5000),
            (3.8917, -2.7725, 0.5061),
            (3.2858, -2.3681, 0.4645),
            (2.3465, -1.7098, 0.4232),
        ),
        "fixed",
        (1e-3, 1.0),
        "frobenius",
        "modded-nanogpt and Dion: Polar Express with safety factor 1.02 (already in the rows)",
    ),
    "cans": PublishedList(
        (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        ),
        "fixed",
        (1e-3, 1.0),
        "frobenius",
        "Grishina et al. (2025), CANS, as shipped in Emerging-Optimizers",
    ),
    # A matrix of rank one reaches 1 under the column scaling too, and the first row turns negative at 0.885. So the
    # scaling must stop at 0.87; with 1, as shipped elsewhere, the certifier refuses the list.
    "aol": PublishedList(
        (
            (4.0098, -7.0585, 2.4635),
            (3.4585, -5.5479, 2.5959),
            (2.7573, -3.2939, 1.4254),
            (2.7215, -3.0494, 1.3169),
        ),
        "fixed",
        (1e-2, 0.87),
        "aol",
        "Turbo-Muon, as shipped in Emerging-Optimizers",
    ),
    "cubic": PublishedList(
        (
            (3.3656576, -3.3420992),
            (2.5744352, -1.4957376),
            (2.5368962, -1.4312570),
            (2.4418906, -1.2764040),
            (2.2230472, -0.9630650),
        ),
        "fixed",
        (1e-2, 1.0),
        "frobenius",
        "five cubics, as shipped in Emerging-Optimizers",
    ),
    "muon-then-newton-schulz": PublishedList(
        (_MUON,) * 8 + ((2.0, -1.5, 0.5),) * 2,
        "fixed",
        (1e-3, 1.0),
        "frobenius",
        "eight Muon rows and two that settle, as shipped in Emerging-Optimizers",
    ),
    "designed-3": PublishedList(
        (
            (13.36897, -118.41958, 372.20422, -456.20470, 189.92167),
            (2.27163, -0.59408),
            (4.02654, -8.09729, 7.40167, -2.86649, 0.39226),
        ),
        "fixed",
        (3.5e-3, 1.0),
        "schatten8",
        "this library: design_iteration('gradient', steps=3, degree=(9, 3, 9), interval=(3.5e-3, 1), safety=1.02); 10 "
        "products for 12, in float32 only: its first step loses its sign to bfloat16",
    ),
    "designed-short": PublishedList(
        (
            (7.82819, -21.83922, 15.47780),
            (4.13063, -3.15101, 0.61653),
            (1.82732, -0.43741),
            (3.03077, -2.95217, 0.91117),
        ),
        "fixed",
        (1e-2, 1.0),
        "schatten8",
        "this library: design_iteration('gradient', steps=4, degree=(5, 5, 3, 5), safety=1.02); 11 products for 12",
    ),
    "designed-4": PublishedList(
        (
            (8.01541, -21.90057, 15.42611),
            (4.00064, -2.87876, 0.52713),
            (3.40472, -2.38839, 0.45093),
            (2.48436, -1.75393, 0.40317),
        ),
        "fixed",
        (3e-3, 1.0),
        "schatten8",
        "this library: design_iteration('gradient', steps=4, safety=1.02)",
    ),
    "designed-5": PublishedList(
        (
            (8.16865, -22.42403, 15.81870),
            (3.84741, -2.65753, 0.46946),
            (3.84169, -2.96224, 0.58963),
            (3.17718, -2.36770, 0.50354),
            (2.02761, -1.30048, 0.31486),
        ),
        "fixed",
        (1e-3, 1.0),
        "schatten8",
        "this library: design_iteration('gradient', steps=5, safety=1.02)",
    ),
}
