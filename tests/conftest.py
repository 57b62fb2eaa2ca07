"""What all tests share."""

import os

# Before anything imports scipy, which reads it once: scikit-learn skips its array API check
# without it.
os.environ["SCIPY_ARRAY_API"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
