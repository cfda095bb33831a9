"""Constants of the solar set. Each set stores them in its solar.json."""

CLASSES = ('hot_cell', 'hot_string', 'crack')
VERSION = 1  # increase it when the rendering code changes. Changes of the constants below are detected anyway.

# Difficulty. Temperatures are in grey levels before the gain; ranges are (low, high).
CONTRAST = (24.0, 80.0)  # difference between a defect's peak and its surroundings, log-uniform
CLASS_MIX = (0.45, 0.3, 0.25)  # share of hot_cell, hot_string, crack
CLASS_CONTRAST = (1.0, 0.72, 1.1)  # factor on CONTRAST by class
P_EMPTY = 0.26  # share of images without a defect
MEAN_EXTRA = 1.9  # Poisson mean of the defects after the first one
MAX_DEFECTS = 6
CELL_PX = (18.0, 36.0)  # side of a cell in pixels at 320x256, log-uniform
STRING_CELLS = (3, 6)  # length of a hot string in cells, from low to high - 1
ANGLE_SD = 9.0  # sd of the rotation around 0, 90, 180 or 270 degrees, in degrees
PERSPECTIVE = 0.24  # largest relative change of scale from the centre to the middle of the top border; corners: 0.36
CELL_JITTER = (0.7, 3.0)  # sd of the temperatures of healthy cells
NOISE = (1.4, 4.2)  # sd of the sensor noise
FIXED_PATTERN = (0.3, 1.5)  # sd of the column offsets
BLUR = (0.5, 1.2)  # sigma of the optics in pixels
GAIN = (0.8, 1.9)
P_BLACK_HOT = 0.12  # share of images with inverted polarity
P_REFLECTION = 0.35
P_DROPPINGS = 0.35
P_WARM_EDGE = 0.25
P_SHADOW = 0.22
P_VEGETATION = 0.18
P_CABLE = 0.22
P_JUNCTION = 0.65
DISTRACTOR_CONTRAST = (12.0, 58.0)

MIN_SIDE = 96  # smallest image side
MIN_BOX = 8  # smallest box side in pixels
MIN_CRACK = 20  # minimum of the longer side of a crack's box, in pixels at 320x256. A shorter crack looks like a stain.
EDGE = 0.4  # a box encloses the pixels above this share of the peak
