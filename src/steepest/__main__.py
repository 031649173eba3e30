# SPDX-License-Identifier: Apache-2.0
"""`python -m steepest`, the form that torchrun starts."""

from steepest.cli import main

if __name__ == "__main__":
    main()
