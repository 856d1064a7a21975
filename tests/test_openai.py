"""`ChatOpenAI` against a small server on this machine that speaks the OpenAI API: streaming, tool calls, refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import BadRequestError

from lc_history import ChatHistories, with_history
from tests.doors import BOTH, Door


class OpenAIServer(BaseHTTPRequestHandler):
    """Echoes the last user's words; calls a tool when asked for the weather; 400 for an unanswered call."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        messages = request["messages"]
        self.server.seen.append(messages)
        calls = {call["id"] for one in messages for call in one.get("tool_calls") or []}
        if calls - {one.get("tool_call_id") for one in messages}:
            self._send(400, {"error": {"message": "tool_call_ids did not have response messages", "type": "x"}})
            return
        last = messages[-1]
        if last["role"] == "user" and "weather" in last["content"]:
            call = {"name": "weather", "arguments": '{"city": "Ulm"}'}
            said = {"content": None, "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": call}]}
        else:
            said = {"content": f"You said {last['content']} after {len(messages) - 1}"}
        self._stream(said) if request.get("stream") else self._whole(said)

    def _whole(self, said: dict) -> None:
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": "stop"}
        self._send(200, {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})

    def _stream(self, said: dict) -> None:
        pieces = [{"content": word + " "} for word in said["content"].split()] if said["content"] else [said]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for delta in [{"role": "assistant", "content": ""}, *pieces]:
            choices = [{"index": 0, "delta": delta}]
            chunk = {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": choices}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OpenAIServer) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def model(server: ThreadingHTTPServer) -> ChatOpenAI:
    return ChatOpenAI(model="m", api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1", max_retries=0)


@pytest.fixture
def histories() -> ChatHistories:
    return ChatHistories.open("memory://")


CONFIG = {"configurable": {"session_id": "s1"}}


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_conversation_over_the_wire(model: ChatOpenAI, server, histories: ChatHistories, door: Door) -> None:
    chat = with_history(model, histories)
    assert door.call(chat, "invoke", "hello", CONFIG).text == "You said hello after 0"
    chunks = door.stream(chat, "again", CONFIG)
    assert len(chunks) > 3
    assert [one["role"] for one in server.seen[-1]] == ["user", "assistant", "user"]
    stored = histories.session("s1").messages
    assert [type(message) for message in stored] == [HumanMessage, AIMessage] * 2
    assert stored[3].text.strip() == "You said again after 2"
    assert stored[1].usage_metadata["total_tokens"] == 12


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_stored_tool_call_can_be_sent_again(model: ChatOpenAI, server, histories: ChatHistories, door: Door) -> None:
    @tool
    def weather(city: str) -> str:
        """Tell the weather."""
        return f"rain in {city}"

    chat = with_history(model.bind_tools([weather]), histories)
    asked = door.call(chat, "invoke", "the weather?", CONFIG)
    assert asked.tool_calls[0]["args"] == {"city": "Ulm"}
    with pytest.raises(BadRequestError):  # what the library keeps from the provider is refused by it indeed
        model.invoke([HumanMessage("the weather?"), asked, HumanMessage("well?")])
    door.call(chat, "invoke", "well?", {"configurable": {"session_id": "s1"}})
    assert [one["role"] for one in server.seen[-1]] == ["user", "assistant", "tool", "user"]
    histories.session("s1").clear()
    door.call(chat, "invoke", "the weather?", CONFIG)
    answer = door.call(chat, "invoke", ToolMessage("rain in Ulm", tool_call_id="c1"), CONFIG)
    assert answer.text == "You said rain in Ulm after 2"
    sent = server.seen[-1][1]["tool_calls"][0]
    assert sent["function"] == {"name": "weather", "arguments": '{"city": "Ulm"}'}
