"""Objects and truth come in; scores per object, per image and per data set go out."""


rule evaluate:
    input:
        model="<results>/train/{model}.json",
        instances="<results>/instances/{model}/{dataset}.json",
        groundtruth="<results>/groundtruth/{dataset}.json",
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
        cfg=evaluate_options,
        dask=dask_options,
    message:
        "evaluate: {wildcards.model} on {wildcards.dataset}, scores"
    script:
        "../scripts/evaluate.py"


# A retrained model that is worse goes no further than the data sets on which that is known.
rule gate:
    input:
        model="<results>/train/{model}.json",
        evaluate=evaluations_of_model,
    output:
        stamp="<results>/evaluate/history/{model}/gate.json",
    log:
        "<results>/logs/gate/{model}.log",
    localrule: True
    conda:
        "../envs/unet.yaml"
    params:
        evaluate=gate_options,
    message:
        "gate: {wildcards.model}, compared with the model that it replaces"
    script:
        "../scripts/gate.py"
