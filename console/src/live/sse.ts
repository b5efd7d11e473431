/** Reads a stream of server-sent events. Source: WHATWG HTML, "Interpreting an event stream". Pure. */

export type ServerEvent = { kind: string; id: string; data: string }

/** Longest event that is taken, in characters; the hub's longest is a fraction of it. */
export const EVENT_CHARS_MAX = 4 * 1024 * 1024

export class EventReader {
  private rest = ''
  private kind = ''
  private data: string[] = []
  /** Goes on from event to event, as the standard says. */
  private id = ''

  /** Takes a piece of text in and gives the events that it completed. */
  read(piece: string): ServerEvent[] {
    const events: ServerEvent[] = []
    let text = this.rest + piece
    // A lone CR at the end may be the first half of CRLF.
    const held = text.endsWith('\r') ? '\r' : ''
    if (held) text = text.slice(0, -1)
    const lines = text.split(/\r\n|\n|\r/u)
    this.rest = (lines.pop() ?? '') + held
    if (this.rest.length > EVENT_CHARS_MAX) throw new RangeError('an event of the stream is too long')
    for (const line of lines) {
      if (line !== '') this.field(line)
      else if (this.data.length > 0) {
        events.push({ kind: this.kind || 'message', id: this.id, data: this.data.join('\n') })
        this.kind = ''
        this.data = []
      } else this.kind = ''
    }
    return events
  }

  private field(line: string): void {
    const colon = line.indexOf(':')
    if (colon === 0) return
    const name = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /u, '')
    if (name === 'event') this.kind = value
    else if (name === 'data') this.data.push(value)
    else if (name === 'id' && !value.includes('\0')) this.id = value
  }
}
