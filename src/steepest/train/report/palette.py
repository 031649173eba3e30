# SPDX-License-Identifier: Apache-2.0
"""Colours that stay apart for colour-blind readers and in print.

References: Okabe, Ito (2008), "Color Universal Design".
"""

BLUE, VERMILLION, GREEN, SKY, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7"

#: Curves in the order in which a page gives them out.
CURVES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

TRAIN, VALIDATION = BLUE, VERMILLION

#: Baselines are told apart by colour and by dash, so that a grey print still works.
BASELINE_COLORS = (GREEN, PURPLE, "#8A6100", "#555555")
BASELINE_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5)))

YELLOW, LIGHT_GREEN = "#F0E442", "#3CC9A0"

#: The same order on a dark page, where blue and vermillion are too dim for thin lines.
CURVES_DARK = (SKY, ORANGE, LIGHT_GREEN, PURPLE, YELLOW, "#FF8A4C")
