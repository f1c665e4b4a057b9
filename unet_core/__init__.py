"""U-Net pipeline for microscopy: the steps of the workflow as functions; nothing here knows Snakemake."""
