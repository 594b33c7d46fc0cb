#!/usr/bin/env bash
# The container's entry: print and check what the job was told, then become `pyanamo pilot`.
#
#   fetch_and_run.sh [SCRIPTS]           SCRIPTS: archive or folder of task scripts instead of the workflow's: s3://…,
#                                        https://… or a path inside the image
#   fetch_and_run.sh PROGRAM [ARG]...    any program of the image instead, e.g. pyanamo pilot, pyanamo doctor, bash
#
#   PYANAMO_TABLE    the workflow's table                                     required
#   AWS_REGION       where the table is                                       required, unless AWS_DEFAULT_REGION is set
#   S3_BUCKET        bucket, or s3://bucket/prefix, of results                the workflow's
#   PYANAMO_ITEMS    items that this pilot holds at a time                    the workflow's
#   PYANAMO_NESTS    nests that run at a time of each item                    the workflow's
#   PYANAMO_SCRATCH  the one folder that is written to (default /scratch)     a volume of the host, shared by its containers
#
# The job definition sets them, a submission may override them. What is wrong is told by variable, all of it at once;
# the exit code is then 78 (docs/exit-codes.md) and nothing has been touched. A scratch folder that cannot be written
# is the host's fault: 75, Batch tries again elsewhere.
set -euo pipefail

readonly WRONG_SETTINGS=78 HOST_FAULT=75

faults=0
fault() { # VARIABLE REASON
    printf 'fetch_and_run.sh: %s: %s\n' "$1" "$2" >&2
    faults=$((faults + 1))
}
told() { # VARIABLE MEANING-WITHOUT-IT
    printf '%-16s %s\n' "${1^^}" "${!1:-($2)}"
}
at_least_one() { # VARIABLE
    [[ -z "${!1:-}" || "${!1}" =~ ^[1-9][0-9]{0,2}$|^1000$ ]] ||
        fault "$1" "'${!1}' is no whole number from 1 to 1000. Correct it in the job definition or the submission"
}

# A program of the image, by its name: an archive or folder has a slash, or an ending that no program has.
if [[ $# -gt 0 && "$1" != */* ]] && type -P -- "$1" >/dev/null; then
    exec "$@"
fi

scripts=${1:-${PYANAMO_SCRIPTS:-}}
AWS_REGION=${AWS_REGION:-${AWS_DEFAULT_REGION:-}}
told PYANAMO_TABLE 'not set'
told AWS_REGION 'not set'
told S3_BUCKET "the workflow's"
told PYANAMO_ITEMS "the workflow's"
told PYANAMO_NESTS "the workflow's"
told scripts "the workflow's"

if [[ -z "${PYANAMO_TABLE:-}" ]]; then
    fault PYANAMO_TABLE "not set. It names the workflow's table: set it in the job definition or the submission"
elif [[ ! "$PYANAMO_TABLE" =~ ^[A-Za-z0-9_.-]{3,255}$ ]]; then
    fault PYANAMO_TABLE "'$PYANAMO_TABLE' is no name of a table: 3 to 255 of A-Z, a-z, 0-9, _, . and -"
fi
if [[ -z "$AWS_REGION" ]]; then
    fault AWS_REGION 'not set. It says where the table is: set it in the job definition, e.g. us-east-1'
elif [[ ! "$AWS_REGION" =~ ^[a-z]{2}(-[a-z]+)+-[0-9]+$ ]]; then
    fault AWS_REGION "'$AWS_REGION' is no region of AWS, such as us-east-1"
fi
if [[ -n "${S3_BUCKET:-}" && ! "$S3_BUCKET" =~ ^(s3://)?[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^[:space:]]*)?$ ]]; then
    fault S3_BUCKET "'$S3_BUCKET' is neither a bucket's name nor s3://bucket/prefix"
elif [[ "${S3_BUCKET:-}" == */* && "$S3_BUCKET" != s3://* ]]; then
    fault S3_BUCKET "'$S3_BUCKET' has a prefix: write s3://$S3_BUCKET"
fi
at_least_one PYANAMO_ITEMS
at_least_one PYANAMO_NESTS
if [[ $# -gt 1 ]]; then
    fault SCRIPTS "one argument is taken, the task scripts; these are $#: $*"
fi
case $scripts in
    '') ;;
    s3://?*/?* | https://?*/?* | http://?*/?*) ;;
    *://*) fault SCRIPTS "'$scripts' is no s3://bucket/key and no https:// address" ;;
    *) [[ -r "$scripts" ]] || fault SCRIPTS "'$scripts' is neither a file, a folder nor a program of this image" ;;
esac
if ((faults)); then
    exit "$WRONG_SETTINGS"
fi

# The root may be read-only; and whatever user the container has, its home is here.
scratch=${PYANAMO_SCRATCH:-/scratch}
if ! { mkdir -p -- "$scratch/tmp" && : >"$scratch/tmp/.$$-$HOSTNAME" && rm -f -- "$scratch/tmp/.$$-$HOSTNAME"; }; then
    printf 'fetch_and_run.sh: PYANAMO_SCRATCH: user %s cannot write into %s. Mount a volume there with mode 1777\n' \
        "$(id -u)" "$scratch" >&2
    exit "$HOST_FAULT"
fi
chmod 1777 -- "$scratch/tmp" 2>/dev/null || true # made by a container of another user
home=$scratch/home-$(id -u)
mkdir -p -m 700 -- "$home"
export AWS_REGION HOME=$home TMPDIR=$scratch/tmp PYANAMO_SCRATCH=$scratch PYANAMO_STAGING=${PYANAMO_STAGING:-$scratch/staging-$(id -u)}
[[ -z "$scripts" ]] || export PYANAMO_SCRIPTS=$scripts
exec pyanamo pilot
