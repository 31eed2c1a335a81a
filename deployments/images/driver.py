"""What a SparkApplication names as its main file: the driver of the application file given as argument."""

import sys

from spike_pipelines.spark.__main__ import main

sys.exit(main(sys.argv[1:]))
