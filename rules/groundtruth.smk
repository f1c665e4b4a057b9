"""Images and annotations of a data set come in; one store with image, instances, classes and ignore mask goes out."""


rule groundtruth:
    input:
        asked=asked("groundtruth"),
    output:
        stamp="<results>/groundtruth/{dataset}.json",
    log:
        "<results>/logs/groundtruth/{dataset}.log",
    benchmark:
        "<results>/benchmarks/groundtruth/{dataset}.jsonl"
    conda:
        "../envs/unet.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        cfg=options("groundtruth"),
        record=record("groundtruth"),
        dask=dask_options,
    message:
        "groundtruth: {wildcards.dataset}, images and annotations to Zarr"
    script:
        "../scripts/groundtruth.py"


rule check_annotations:
    input:
        truths_to_check,
    localrule: True
    message:
        "check_annotations: done"
