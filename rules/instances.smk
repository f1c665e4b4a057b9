"""Probabilities come in, and images for their gray values; labels unique in each sample and tables go out."""


rule instances:
    input:
        asked=asked("instances"),
        predict=after("instances", "<results>/predict/{model}/{dataset}.json"),
        groundtruth=after("instances", "<results>/groundtruth/{dataset}.json"),
    output:
        stamp="<results>/instances/{model}/{dataset}.json",
    log:
        "<results>/logs/instances/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/instances/{model}/{dataset}.jsonl"
    conda:
        "../envs/unet.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=480,
    params:
        cfg=options("instances"),
        record=record("instances"),
        dask=dask_options,
    message:
        "instances: {wildcards.model} on {wildcards.dataset}, probabilities to objects"
    script:
        "../scripts/instances.py"
