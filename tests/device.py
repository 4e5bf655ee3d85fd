"""Where the tests train: on the processor, which they are written for, or with `MIXCD_TEST_ON_GPU=1` on a GPU."""

import os

USE_CPU = os.environ.get("MIXCD_TEST_ON_GPU") != "1"
