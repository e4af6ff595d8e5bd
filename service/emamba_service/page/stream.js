// A WebSocket that comes back by itself, and tells what state it is in.

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
const MOST_BUFFERED_BYTES = 256 * 1024;

// `url()` gives the address at each attempt. Of `on`, hello(document) is called for the first
// message of a connection, message(document) for the others, and
// state("connecting" | "open" | "waiting" | "closed", detail) whenever it changes; the detail of
// "waiting" is {seconds, reason, refused}, refused where the connection never came about.
export class Stream {
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.pause = FIRST_PAUSE_MS;
    this.connect();
  }

  connect() {
    this.on.state("connecting");
    const token = savedToken();
    const protocols = token ? ["emamba.v1", `emamba.token.${token}`] : ["emamba.v1"];
    const socket = new WebSocket(this.url(), protocols);
    let greeted = false;
    socket.onmessage = (event) => {
      if (this.socket !== socket) return;
      const document = JSON.parse(event.data);
      if (greeted) {
        this.on.message(document);
        return;
      }
      greeted = true;
      this.open = true;
      this.pause = FIRST_PAUSE_MS;
      this.on.hello?.(document);
      this.on.state("open");
    };
    socket.onclose = (event) => {
      if (this.socket === socket) this.again(event.reason, !greeted);
    };
    this.socket = socket;
  }

  again(reason, refused) {
    this.socket = null;
    this.open = false;
    this.on.state("waiting", { seconds: this.pause / 1000, reason, refused });
    this.timer = setTimeout(() => this.connect(), this.pause);
    this.pause = Math.min(LONGEST_PAUSE_MS, this.pause * 1.7);
  }

  // Whether `document` was sent: not while there is no connection, or while it is behind.
  send(document) {
    if (!this.open || this.socket.bufferedAmount > MOST_BUFFERED_BYTES) return false;
    this.socket.send(JSON.stringify(document));
    return true;
  }

  close() {
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = null;
    this.open = false;
    // Browsers complain of a connection that is closed before it is there.
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket?.close();
    this.on.state("closed");
  }
}

// The address of a route of this service, wherever the page is served from.
export const route = (path) => new URL(path, document.baseURI);

export function socketRoute(path) {
  const url = route(path);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url;
}

// fetch() of a route, with the token if there is one; problems become errors with their sentence.
export async function ask(path, options = {}) {
  const token = savedToken();
  const headers = { accept: "application/json", ...options.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(route(path), { ...options, headers });
  const document = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(document.detail), { status: answer.status });
  return document;
}

// Kept for this tab alone.
export const savedToken = () => sessionStorage.getItem("emamba-token");
export const saveToken = (token) => sessionStorage.setItem("emamba-token", token);
