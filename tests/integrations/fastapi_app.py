"""A FastAPI application whose requests fail, with femtomp's middleware."""

import logging

from fastapi import FastAPI, WebSocket

from femtomp.integrations.asgi import RequestContext

app = FastAPI()
app.add_middleware(RequestContext)


@app.get("/well")
async def well():
    logging.getLogger("view").info("in the view")


@app.get("/fail")
async def fail():
    raise LookupError("asked for")


@app.websocket("/fail")
async def fail_websocket(socket: WebSocket):
    await socket.accept()
    await socket.receive_text()
    raise LookupError("asked for")
