"""Images of a data set and a model come in; class probabilities go out, block by block."""


rule predict:
    input:
        asked=asked("predict"),
        plans=after("predict", plans_of_model),
        model=after("predict", "<results>/train/{model}.json"),
        groundtruth=after("predict", "<results>/groundtruth/{dataset}.json"),
        # Waited for, but no reason to start: new scores change no probabilities.
        gate=after("predict", gate_before),
    output:
        stamp="<results>/predict/{model}/{dataset}.json",
    log:
        "<results>/logs/predict/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/predict/{model}/{dataset}.jsonl"
    conda:
        "../envs/unet.yaml"
    threads: 16
    resources:
        mem_mb=16000,
        runtime=1440,
    params:
        cfg=options("predict"),
        record=record("predict"),
        dask=dask_options,
    message:
        "predict: {wildcards.model} on {wildcards.dataset}, overlap-tile inference"
    script:
        "../scripts/predict.py"
