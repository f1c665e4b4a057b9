"""Probabilities come in, and images for gray values; labels unique in each sample and tables of objects go out."""


rule tune:
    input:
        asked=asked("tune"),
        predict=after("tune", predictions_to_tune_by),
        groundtruth=after("tune", truths_to_tune_by),
    output:
        stamp="<results>/tune/{model}.json",
    log:
        "<results>/logs/tune/{model}.log",
    benchmark:
        "<results>/benchmarks/tune/{model}.jsonl"
    conda:
        "../envs/unet.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        cfg=options("tune"),
        record=record("tune"),
        dask=dask_options,
    message:
        "tune: {wildcards.model}, options of instances by samples that were not learnt from"
    script:
        "../scripts/tune.py"


rule instances:
    input:
        asked=asked("instances"),
        predict=after("instances", "<results>/predict/{model}/{dataset}.json"),
        groundtruth=after("instances", "<results>/groundtruth/{dataset}.json"),
        tuned=after("instances", tuned_before),
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
