/** A twin's text inside the manifest that it is part of, for the hub's one validator. Pure. */
import type { JsonObject } from './json'

/** Modules whose desired properties are parts of a deployment manifest. */
export const MANIFEST_MODULES: ReadonlySet<string> = new Set(['$edgeAgent', '$edgeHub'])

export type Composed = { text: string; from: number }

/** The manifest with `text` as it stands in place of what is set for `module`; `from` is where it begins. */
export function composed(content: JsonObject, module: string, text: string): Composed {
  const others = Object.entries(content)
    .filter(([name]) => name !== module)
    .map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)},`)
  const before = `{"modulesContent":{${others.join('')}${JSON.stringify(module)}:{"properties.desired":`
  return { text: `${before}${text}}}}`, from: before.length }
}

export type Spot = { message: string; module?: string | null; from?: number; to?: number }
export type Found = { from: number; to: number; message: string; severity: 'error' | 'warning' }

/**
 * Faults of the manifest at their places in the text of the twin. What lies in another part of the
 * manifest is a warning at the beginning: it is not made here, but this twin does not fit to it.
 */
export function inTwin(faults: readonly Spot[], { from }: Composed, length: number): Found[] {
  return faults.map((fault) => {
    const [start, end] = [(fault.from ?? -1) - from, (fault.to ?? fault.from ?? -1) - from]
    if (start >= 0 && start < length) return { from: start, to: Math.min(Math.max(end, start), length), message: fault.message, severity: 'error' }
    return { from: 0, to: Math.min(1, length), message: `${fault.module ?? 'the manifest'}: ${fault.message}`, severity: 'warning' }
  })
}
