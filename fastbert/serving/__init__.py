"""A server for one model, by FastAPI and uvicorn: `fastbert serve MODEL`.

    HTTP side: parses, limits, answers      pipes      a worker a device: tokenises, fills batches over all requests, computes

server.py, listening.py   start and stop it     settings.py   flags and environment variables
app.py        routes                          requests.py   bodies of requests
page.html     the page at /
gate.py       key and size, before parsing    metrics.py    for Prometheus      responses.py   JSON, errors
workers.py    the HTTP side's view of them    worker.py     the process      messages.py   what they say
loop.py       one loop for all requests       models.py     what a model answers, by its head
"""
