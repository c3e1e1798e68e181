"""The end-to-end list of KEDA's HTTP add-on, case by case, against the overlay under its names, without KEDA: `cases.py IMAGE [CASE...]`.

Applications are Python programs of `apps/` that run from the node's own files. Exit code 0: all passed.
"""

import default
import inference
import observability
import standalone
import tls
from harness import main

main(default, standalone, inference, observability, tls)
