/** The shared worker: one stream for all tabs of this browser. */
import { Runner, type FromTab } from './runner'

declare const self: SharedWorkerGlobalScope

const runner = new Runner()
let tabs = 0

self.onconnect = (event) => {
  const port = event.ports[0]
  if (port === undefined) return
  tabs += 1
  const tab = `tab-${tabs}`
  const post = (message: unknown): void => port.postMessage(message)
  port.onmessage = ({ data }: MessageEvent<FromTab>) => {
    runner.handle(tab, data, post)
    if (data.kind !== 'join') return
    // The tab holds this lock while it lives; nothing else tells a worker that a tab is gone.
    void navigator.locks.request(data.lock, () => {
      runner.handle(tab, { kind: 'leave' }, post)
      port.close()
    })
  }
}
