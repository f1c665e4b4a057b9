"""``python -m unet_core`` lists the commands beside the workflow; ``python -m unet_core COMMAND`` runs one."""

from __future__ import annotations

import importlib
import os
import signal
import sys

from unet_core.failures import explain
from unet_core.runtime import end_in_order, end_while_starting, print_at_once

COMMANDS = {
    "check": ("unet_core.groundtruth.check.command", "CONFIG: what the last check of all annotations found"),
    "correct": ("unet_core.correct.command", "MODEL DATASET --to FOLDER: objects to correct, and to learn from"),
    "demo": ("unet_core.demo", "FOLDER: generates the data of the demo"),
    "estimate": ("unet_core.estimate.command", "[CONFIG]: what a run would do and cost"),
    "export": ("unet_core.instances.export", "STORE FOLDER: objects as TIFF, ImageJ ROIs, GeoJSON, LabelMe or COCO"),
    "init": ("unet_core.init.command", "FOLDER [--out CONFIG]: proposes a configuration for images and annotations"),
    "share": ("unet_core.network.share", "MODEL PACKAGE: a trained model for the BioImage Model Zoo"),
    "verify": ("unet_core.store.verify", "[--mend] RESULTS: reads all stores, and says what is damaged"),
    "view": ("unet_core.view.command", "[RESULTS] [MODEL] [DATASET] [SAMPLE]: images, truth, result, errors in napari"),
}


def main(arguments: list[str]) -> None:
    """Run the command that the first argument names with the others."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m unet_core COMMAND ...")
        for name, (_, what) in COMMANDS.items():
            print(f"  {name:<9} {what}")
    elif arguments[0] in COMMANDS:
        _run(*arguments)
    else:
        sys.exit(f"unet_core: there is no command {arguments[0]!r}; the commands are {', '.join(COMMANDS)}")


def _run(name: str, *arguments: str) -> None:
    """Run a command; a signal ends it with one line, also while it is imported, and so does what the system refuses."""
    before = end_while_starting()
    command = importlib.import_module(COMMANDS[name][0])
    for number, handler in before.items():
        signal.signal(number, handler)
    try:
        with end_in_order(lambda by: print_at_once(f"{name}: stopped by {by}")):
            command.main([*arguments])
    except Exception as error:
        if told := explain(error):
            sys.exit(f"{name}: {told}")
        # A path of the command line that is something else.
        if isinstance(error, OSError) and error.filename is not None:
            sys.exit(f"{name}: {os.fsdecode(error.filename)}: {error.strerror}")
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
