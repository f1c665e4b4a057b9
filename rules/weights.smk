"""Labels of a data set come in; training target and border term of the weight map go out."""


rule weights:
    input:
        asked=asked("weights"),
        groundtruth=after("weights", "<results>/groundtruth/{dataset}.json"),
    output:
        stamp="<results>/weights/{dataset}.json",
    log:
        "<results>/logs/weights/{dataset}.log",
    benchmark:
        "<results>/benchmarks/weights/{dataset}.jsonl"
    conda:
        "../envs/unet.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        cfg=options("weights"),
        record=record("weights"),
        dataset=dataset_options,
        dask=dask_options,
    message:
        "weights: {wildcards.dataset}, labels to weight maps"
    script:
        "../scripts/weights.py"
