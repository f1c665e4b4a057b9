"""Images, targets, weights and plan come in; a model folder with weights, description and curves goes out."""


rule train:
    input:
        plan="<results>/plan/{model}.json",
        groundtruth=truths_to_train_on,
        weights=weights_of_model,
    output:
        stamp="<results>/train/{model}.json",
    log:
        "<results>/logs/train/{model}.log",
    benchmark:
        "<results>/benchmarks/train/{model}.jsonl"
    wildcard_constraints:
        model=NETWORKS,
    conda:
        "../envs/unet.yaml"
    threads: 16
    resources:
        mem_mb=16000,
        runtime=2880,
    params:
        cfg=train_options,
    message:
        "train: {wildcards.model}, training"
    script:
        "../scripts/train.py"


# A model that is the mean of several networks: its folds, or other models.
rule ensemble:
    input:
        networks_of_model,
    output:
        stamp="<results>/train/{model}.json",
    log:
        "<results>/logs/ensemble/{model}.log",
    wildcard_constraints:
        model=SEVERAL,
    localrule: True
    conda:
        "../envs/unet.yaml"
    params:
        code=method("ensemble"),
    message:
        "ensemble: {wildcards.model}, the mean of several networks"
    script:
        "../scripts/ensemble.py"
