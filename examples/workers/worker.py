"""A worker for `integration.worker` steps: takes tasks of a queue, does them, reports. Python 3.9 or later, nothing to install.

    LEDGERLINE_URL=http://127.0.0.1:8080 LEDGERLINE_TOKEN=… QUEUE=greetings python3 worker.py
"""
import json, os, sys, threading, urllib.error, urllib.request

BASE = os.environ.get("LEDGERLINE_URL", "http://127.0.0.1:8080") + "/api/v1/worker-tasks"
QUEUE = os.environ.get("QUEUE", "greetings")
HEADERS = {"Authorization": "Bearer " + os.environ["LEDGERLINE_TOKEN"], "Content-Type": "application/json"}
if os.environ.get("LEDGERLINE_WORKSPACE"):
    HEADERS["Ledgerline-Workspace"] = os.environ["LEDGERLINE_WORKSPACE"]


def call(path, body):
    request = urllib.request.Request(f"{BASE}/{path}", json.dumps(body).encode(), HEADERS)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def work(task):
    """What your steps do: the input of the step in, its output out. An exception is a failure that may pass."""
    return {"greeting": f"Hello, {task['input']['name']}", "by": "python"}


def beat(task, done):
    while not done.wait(task["heartbeat_timeout_ms"] / 3000):
        call(f"{task['id']}/heartbeat", {"lease": task["lease"]})  # 409: the task is somebody else's by now


while True:
    task = call("poll", {"queue": QUEUE, "wait_ms": 20000, "worker": f"python-{os.getpid()}"})["task"]
    if task is None:
        continue
    done = threading.Event()
    threading.Thread(target=beat, args=(task, done), daemon=True).start()
    try:
        call(f"{task['id']}/complete", {"lease": task["lease"], "output": work(task)})
    except urllib.error.HTTPError as refused:
        print(task["node"], refused.read().decode(), file=sys.stderr)
    except Exception as error:
        call(f"{task['id']}/fail", {"lease": task["lease"], "error": {"kind": "transient", "message": repr(error)}})
    finally:
        done.set()
