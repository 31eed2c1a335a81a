"""What a backfill's SparkApplication names as its main file: application file and place of orders follow."""

import sys

from spike_pipelines.spark.backfill import main

sys.exit(main(sys.argv[1:]))
