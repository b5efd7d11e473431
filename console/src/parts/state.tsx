/** Words for states, the same everywhere. */
import type { ReactNode } from 'react'

import type { DeviceRow, ModuleView } from '../api/types'
import { SIGNS } from '../app/icons'

export type Tone = 'ok' | 'warn' | 'bad' | 'quiet'

export function State({ tone, children }: { tone: Tone; children: ReactNode }): ReactNode {
  return (
    <span className="state" data-tone={tone}>
      {SIGNS[tone]}
      {children}
    </span>
  )
}

export function deviceState(device: { status?: string; connectionState?: string; stale: boolean; lastActivityTime?: string | null }): { tone: Tone; words: string } {
  if (device.status === 'disabled') return { tone: 'quiet', words: 'disabled' }
  if (device.connectionState === 'Connected') return { tone: 'ok', words: 'connected' }
  if (!device.lastActivityTime || device.lastActivityTime.startsWith('0001')) return { tone: 'quiet', words: 'never seen' }
  return device.stale ? { tone: 'bad', words: 'stale' } : { tone: 'warn', words: 'disconnected' }
}

export function DeviceState({ device }: { device: Pick<DeviceRow, 'status' | 'connectionState' | 'stale' | 'lastActivityTime'> }): ReactNode {
  const { tone, words } = deviceState(device)
  return <State tone={tone}>{words}</State>
}

export function moduleTone(module: ModuleView): Tone {
  const status = module.reported?.runtimeStatus
  if (module.failing) return 'bad'
  if (status === 'running') return module.desired && module.desired.status !== 'running' && !module.system ? 'warn' : 'ok'
  if (status === 'stopped' && module.desired?.status === 'stopped') return 'quiet'
  return status ? 'warn' : 'quiet'
}
