"""Colours of pictures, pages and plots, distinct for colour-blind readers (Okabe and Ito 2008), as `#RRGGBB`."""

BLUE = "#0072B2"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
