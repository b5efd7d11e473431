/** The few signs the console needs, drawn here. */
import type { ReactNode } from 'react'

function Icon({ children, size = 18 }: { children: ReactNode; size?: number | undefined }): ReactNode {
  return (
    <svg width={size} height={size} viewBox="0 0 20 20" fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      {children}
    </svg>
  )
}
type Props = { size?: number }

export const OverviewIcon = ({ size }: Props): ReactNode => <Icon size={size}><path d="M3 16V9m5 7V4m5 12v-5m4 5V7" /></Icon>
export const DevicesIcon = ({ size }: Props): ReactNode => <Icon size={size}><rect x="3" y="4" width="14" height="5" rx="1" /><rect x="3" y="11" width="14" height="5" rx="1" /><path d="M6 6.5h.01M6 13.5h.01" /></Icon>
export const DeviceIcon = ({ size }: Props): ReactNode => <Icon size={size}><rect x="5" y="5" width="10" height="10" rx="1.5" /><path d="M8 2v3m4-3v3M8 15v3m4-3v3M2 8h3m-3 4h3m10-4h3m-3 4h3" /></Icon>
export const SearchIcon = ({ size }: Props): ReactNode => <Icon size={size}><circle cx="9" cy="9" r="5" /><path d="m13 13 4 4" /></Icon>
export const SunIcon = ({ size }: Props): ReactNode => <Icon size={size}><circle cx="10" cy="10" r="3.2" /><path d="M10 2.5v1.7m0 11.6v1.7M2.5 10h1.7m11.6 0h1.7M4.7 4.7l1.2 1.2m8.2 8.2 1.2 1.2m0-10.6-1.2 1.2m-8.2 8.2-1.2 1.2" /></Icon>
export const MoonIcon = ({ size }: Props): ReactNode => <Icon size={size}><path d="M16 11.6A6.5 6.5 0 0 1 8.4 4a6.5 6.5 0 1 0 7.6 7.6Z" /></Icon>
export const LeaveIcon = ({ size }: Props): ReactNode => <Icon size={size}><path d="M8 4H4v12h4m3-9 3 3-3 3m3-3H8" /></Icon>
export const CopyIcon = ({ size }: Props): ReactNode => <Icon size={size}><rect x="7" y="7" width="9" height="9" rx="1.5" /><path d="M13 7V4H4v9h3" /></Icon>
export const DoneIcon = ({ size }: Props): ReactNode => <Icon size={size}><path d="m4 10.5 4 4 8-9" /></Icon>
export const PauseIcon = ({ size }: Props): ReactNode => <Icon size={size}><path d="M7 5v10m6-10v10" /></Icon>
export const PlayIcon = ({ size }: Props): ReactNode => <Icon size={size}><path d="m6 4 10 6-10 6Z" /></Icon>

/** Signs of states differ in shape, not in colour alone. */
export const SIGNS = {
  ok: <svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="4.5" fill="currentColor" /></svg>,
  warn: <svg width="11" height="10" viewBox="0 0 11 10" aria-hidden="true"><path d="M5.5 0 11 10H0Z" fill="currentColor" /></svg>,
  bad: <svg width="11" height="11" viewBox="0 0 11 11" aria-hidden="true"><path d="M5.5 0 11 5.5 5.5 11 0 5.5Z" fill="currentColor" /></svg>,
  quiet: <svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="3.8" fill="none" stroke="currentColor" strokeWidth="1.6" /></svg>,
}

export function Mark({ size = 28 }: Props): ReactNode {
  return (
    <svg width={size} height={size} viewBox="0 0 32 32" aria-hidden="true">
      <g fill="none" stroke="#f4f1e8" strokeWidth="2.6" strokeLinecap="round">
        <path d="M4 7.5h15.5a3.4 3.4 0 0 1 0 6.8H4" />
        <path d="M4 17.7h15.5a3.4 3.4 0 0 1 0 6.8H4" />
      </g>
      <path d="M26.6 3.5v25" stroke="#ff6b7a" strokeWidth="2.6" strokeLinecap="round" />
    </svg>
  )
}
