"""Trains, publishes and rolls out once a day; a version that was rolled back fails the run, one that nobody can tell
about skips what follows."""

import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("fraud", schedule="@daily", start_date=datetime.datetime(2026, 1, 1), catchup=False):
    publish = BashOperator(
        task_id="publish",
        bash_command="sluice push /models/fraud/model.onnx --name fraud --json | jq .version",
        do_xcom_push=True,
    )
    rollout = BashOperator(
        task_id="rollout",
        bash_command=(
            "sluice rollout start fraud --to {{ ti.xcom_pull(task_ids='publish') }} "
            "--plan /models/fraud/rollout.yaml --key {{ run_id }} --wait --timeout 2h"
        ),
        skip_on_exit_code=3,
        execution_timeout=datetime.timedelta(hours=3),
    )
    publish >> rollout
