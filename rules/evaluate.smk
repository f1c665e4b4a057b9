"""Objects and truth come in; scores per object, per image and per data set go out."""


rule evaluate:
    input:
        asked=asked("evaluate"),
        model=after("evaluate", "<results>/train/{model}.json"),
        instances=after("evaluate", "<results>/instances/{model}/{dataset}.json"),
        groundtruth=after("evaluate", "<results>/groundtruth/{dataset}.json"),
    output:
        stamp="<results>/evaluate/{model}/{dataset}.json",
    log:
        "<results>/logs/evaluate/{model}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{model}/{dataset}.jsonl"
    conda:
        "../envs/unet.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        cfg=options("evaluate"),
        record=record("evaluate"),
        dask=dask_options,
    message:
        "evaluate: {wildcards.model} on {wildcards.dataset}, scores"
    script:
        "../scripts/evaluate.py"


# A retrained model that is worse goes no further than the data sets on which that is known.
rule gate:
    input:
        asked=asked("gate"),
        model=after("gate", "<results>/train/{model}.json"),
        evaluate=after("gate", evaluations_of_model),
    output:
        stamp="<results>/evaluate/history/{model}/gate.json",
    log:
        "<results>/logs/gate/{model}.log",
    localrule: True
    conda:
        "../envs/unet.yaml"
    params:
        evaluate=gate_options,
        record=record("gate"),
    message:
        "gate: {wildcards.model}, compared with the model that it replaces"
    script:
        "../scripts/gate.py"
