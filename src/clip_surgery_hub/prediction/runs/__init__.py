"""The folder of a run: shards that survive a crash, resumed, watched and read while it runs."""

from clip_surgery_hub.files.lock import RunError as RunError
from clip_surgery_hub.prediction.runs.folder import RunFolder as RunFolder
from clip_surgery_hub.prediction.runs.folder import RunMismatch as RunMismatch
from clip_surgery_hub.prediction.runs.key_set import KeySet as KeySet
from clip_surgery_hub.prediction.runs.progress import RankProgress as RankProgress
from clip_surgery_hub.prediction.runs.progress import RunLog as RunLog
from clip_surgery_hub.prediction.runs.progress import RunStatus as RunStatus
from clip_surgery_hub.prediction.runs.progress import finished_ranks as finished_ranks
from clip_surgery_hub.prediction.runs.progress import run_status as run_status
from clip_surgery_hub.prediction.runs.reading import read_errors as read_errors
from clip_surgery_hub.prediction.runs.reading import read_run as read_run
from clip_surgery_hub.prediction.runs.reading import read_settings as read_settings
from clip_surgery_hub.prediction.runs.reading import run_dataset as run_dataset
from clip_surgery_hub.prediction.runs.reading import verify_run as verify_run
from clip_surgery_hub.prediction.runs.schema import OUTPUTS as OUTPUTS
from clip_surgery_hub.prediction.runs.schema import check_outputs as check_outputs
from clip_surgery_hub.prediction.runs.schema import errors_schema as errors_schema
from clip_surgery_hub.prediction.runs.schema import images_schema as images_schema
from clip_surgery_hub.prediction.runs.shard_records import Counts as Counts
from clip_surgery_hub.prediction.runs.shards import ShardSink as ShardSink
