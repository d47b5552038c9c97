"""Makes the requests that lines of standard input say, and answers each line with one."""

import json
import sys
import threading

import requests
import tokenbroker_auth

address, ca, cert, key, api_ca, credential = sys.argv[1:]
auth = tokenbroker_auth.TokenBrokerAuth(tokenbroker_auth.channel(address, ca, cert, key), credential)


def ask(order, into):
    try:
        body = iter([order["stream"].encode()]) if "stream" in order else order.get("body")
        answer = requests.request(order["method"], order["url"], data=body, headers=order.get("headers"), auth=auth, verify=api_ca, timeout=30)
        shown = f"{answer.url} {answer.headers}"
        try:
            answer.raise_for_status()
        except requests.HTTPError as e:
            shown += f" {e} {e.request.url}"
        into.append({"status": answer.status_code, "body": answer.text, "shown": shown})
    except Exception as e:
        into.append({"error": f"{type(e).__name__}: {e}"})


for line in sys.stdin:
    order, answers = json.loads(line), []
    threads = [threading.Thread(target=ask, args=(order, answers)) for _ in range(order.get("times", 1))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(json.dumps(answers), flush=True)
